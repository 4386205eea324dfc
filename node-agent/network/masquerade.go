// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"
)

// firewall is the way to the kernel's rules that a node has.
type firewall string

const (
	iptables firewall = "iptables"
	nftables firewall = "nftables"
)

// findFirewall returns iptables where the node has it, else nftables, which needs plugins of
// version 1.6 or later. version is the newest CNI version that the plugins know.
func findFirewall(version string) (firewall, error) {
	if hasProgram("iptables") {
		return iptables, nil
	}
	if !hasProgram("nft") {
		return "", errors.New("network: found neither iptables nor nft in PATH; allowed: one of them, " +
			"of the package iptables or nftables")
	}
	if version == oldVersion {
		return "", errors.New("network: found no iptables in PATH, and CNI plugins that know no " +
			"nftables; allowed: iptables, or plugins of version 1.6 or later")
	}
	return nftables, nil
}

func hasProgram(name string) bool {
	path, err := exec.LookPath(name)
	return err == nil && path != ""
}

// masquerade adds a rule for each subnet, which masquerades packets that leave the bridge. The
// plugin's own rules, of each container, are lost to it if the container's device is removed before
// the plugin removes them. By iptables, it also lets the questions of containers about names in:
// the node may drop what comes in. No table of nftables can overrule another.
func (b *Bridge) masquerade(ctx context.Context, rules firewall, subnets []netip.Prefix) error {
	if rules == nftables {
		out, err := b.rule(ctx, b.table(subnets), "nft", "-f", "-")
		if err != nil {
			return fmt.Errorf("masquerade %v: nft: %w: %s", subnets, err, bytes.TrimSpace(out))
		}
		return nil
	}
	for _, p := range subnets {
		program := "iptables"
		if p.Addr().Is6() {
			program = "ip6tables"
		}
		if err := b.addRule(ctx, program, "nat", "-A", "POSTROUTING", "-s", p.String(),
			"!", "-o", b.Name(), "-m", "comment", "--comment", "containers of "+b.Name(),
			"-j", "MASQUERADE"); err != nil {
			return fmt.Errorf("masquerade %s: %w", p, err)
		}
		for _, protocol := range []string{"udp", "tcp"} {
			if err := b.addRule(ctx, program, "filter", "-I", "INPUT", "-i", b.Name(), "-p", protocol,
				"--dport", "53", "-m", "comment", "--comment", "names of "+b.Name(),
				"-j", "ACCEPT"); err != nil {
				return fmt.Errorf("let questions about names in: %w", err)
			}
		}
	}
	return nil
}

// addRule adds a rule of iptables by a verb, unless there is one.
func (b *Bridge) addRule(
	ctx context.Context, program, table, verb, chain string, rule ...string,
) error {
	run := func(verb string) ([]byte, error) {
		return b.rule(ctx, "", program, append([]string{"--wait", "-t", table, verb, chain}, rule...)...)
	}
	out, err := run("-C")
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 { // there is no such rule
		out, err = run(verb)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(out))
	}
	return nil
}

// table returns a transaction of nft(8) that makes the bridge's table, or makes it anew.
func (b *Bridge) table(subnets []netip.Prefix) string {
	var text strings.Builder
	fmt.Fprintf(&text, "add table inet %[1]s\ndelete table inet %[1]s\ntable inet %[1]s {\n"+
		"chain postrouting {\ntype nat hook postrouting priority srcnat;\n", b.Name())
	for _, p := range subnets {
		family := "ip"
		if p.Addr().Is6() {
			family = "ip6"
		}
		fmt.Fprintf(&text, "%s saddr %s oifname != %q masquerade\n", family, p, b.Name())
	}
	text.WriteString("}\n}\n")
	return text.String()
}

// rule runs a program that changes rules, and returns what it printed.
func (b *Bridge) rule(ctx context.Context, input, program string, args ...string) ([]byte, error) {
	// Another process may hold the lock that it waits for.
	patience := cmp.Or(b.patience, pluginPatience)
	limited, cancel := context.WithTimeoutCause(ctx, patience,
		fmt.Errorf("did not end within %s", patience))
	defer cancel()
	cmd := exec.CommandContext(limited, program, args...)
	cmd.Stdin = strings.NewReader(input)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil && limited.Err() != nil {
		err = context.Cause(limited)
	}
	return out, err
}
