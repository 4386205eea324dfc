// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/network"
)

// within runs a program of a container in its namespaces, and returns what it prints. It needs no
// agent.
func within(pid int64, args ...string) (string, error) {
	out, err := exec.Command("nsenter", append([]string{
		"--target", fmt.Sprint(pid), "--mount", "--net", "--uts", "/bin/busybox",
	}, args...)...).CombinedOutput()
	return string(out), err
}

// Containers of a network find each other by name and alias, others do not find them, and nobody
// waits long while the agent is away.
func TestStandaloneNameserver(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.ownNetwork()
	conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"far","plugins":[{"type":"bridge","bridge":"far0","isGateway":true,
		"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.94.0.0/24"}]]}},{"type":"firewall"}]}`,
		h.path("leases"))
	if err := os.WriteFile(h.path("cni/far.conflist"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	bridge := h.bridgeName()
	server := "  archive: {path: " + programs + "/busybox.tar}\n" +
		"  command: [/bin/busybox, httpd, -f, -p, '[::]:80', -h, /etc]\n"
	h.write("web.yaml", server+"  networks: [{name: "+bridge+", aliases: [www, www.example]}]\n")
	h.write("client.yaml", pinging()+"  networks: [{name: "+bridge+"}]\n")
	h.write("stranger.yaml", pinging()) // the first file is the network of who asks for none
	web, _ := h.ips("web", 0)
	_, client := h.ips("client", 0)
	_, stranger := h.ips("stranger", 0)

	finds := func(when string) {
		t.Helper()
		for _, name := range []string{"web", "www", "www.example", "web.default", "web.default.berth.internal"} {
			h.until(when+": the server answers by "+name, func() bool {
				out, _ := within(client, "wget", "-q", "-O", "-", "http://"+name+"/hostname")
				return strings.TrimSpace(out) == "web"
			})
		}
	}
	finds("at first")
	out, err := within(client, "nslookup", "web")
	for _, address := range web {
		if err != nil || !strings.Contains(out, address.String()) {
			t.Errorf("nslookup web: found %s, %v; want %s", out, err, address)
		}
		out, err := within(client, "nslookup", address.String())
		if err != nil || !strings.Contains(out, "web.default.berth.internal") {
			t.Errorf("nslookup %s: found %s, %v; want the name of web", address, out, err)
		}
	}
	gateway := strings.TrimSpace(h.onNode("sh", "-c",
		"ip -4 -o addr show dev "+bridge+" | sed 's/.* inet //; s,/.*,,'"))
	for _, args := range [][]string{{"web"}, {"web", gateway}, {"www"}, {"web.default.berth.internal"}} {
		if out, err := within(stranger, append([]string{"nslookup"}, args...)...); err == nil ||
			strings.Contains(out, web[0].String()) {
			t.Errorf("a container of another network: nslookup %v: found %s", args, out)
		}
	}

	h.signal(unix.SIGKILL)
	begin := time.Now()
	if out, err := within(client, "wget", "-q", "-O", "-", "http://web/hostname"); err == nil {
		t.Errorf("without an agent: found the answer %s", out)
	}
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("without an agent: a lookup took %s; want a failure after a second", took)
	}
	h.onNode("iptables", "--policy", "INPUT", "DROP") // as a firewall of the host has it
	h.start()
	finds("after the agent was killed")

	h.endClean("web.yaml", "client.yaml", "stranger.yaml")
}

// The sample of a server and its client does as its comment says.
func TestStandaloneSampleNames(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.ownNetwork()
	h.start()
	h.raw("names.yaml", sample(t, "standalone/names.yaml"))
	h.until("the client has both answers", func() bool {
		out, _, _ := h.run("", "logs", "client") // also what wget says before the server listens
		return strings.Contains(out, "site is site\n") && strings.Contains(out, "www is site\n")
	})
	h.endClean("names.yaml")
}

// bridgeName returns the name of the agent's bridge.
func (h *host) bridgeName() string {
	return (&network.Bridge{RunDir: h.path("r")}).Name()
}
