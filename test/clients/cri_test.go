// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pod is a sandbox of containerd's CRI service, as a kubelet has it.
type pod struct {
	t       *testing.T
	ctx     context.Context
	service cri.RuntimeServiceClient
	config  *cri.PodSandboxConfig
	id      string
}

func newPod(t *testing.T, service cri.RuntimeServiceClient, name string,
	settings ...func(*cri.PodSandboxConfig),
) *pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*limit) // of many calls
	t.Cleanup(cancel)
	logs := filepath.Join(work, "logs", name)
	parent := "/k8s.io"
	if systemd() {
		parent = "k8s.slice"
	}
	if err := os.MkdirAll(logs, 0o755); err != nil {
		t.Fatal(err)
	}
	p := &pod{t: t, ctx: ctx, service: service, config: &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name},
		LogDirectory: logs,
		// With a network of its own it would need CNI.
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: parent,
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{
					Network: cri.NamespaceMode_NODE,
					Pid:     cri.NamespaceMode_CONTAINER,
				},
			},
		},
	}}
	for _, set := range settings {
		set(p.config)
	}
	r, err := service.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{
		Config:         p.config,
		RuntimeHandler: "berth",
	})
	p.must(err)
	p.id = r.PodSandboxId
	t.Cleanup(func() {
		_, err := service.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
		p.must(err)
		_, err = service.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
		p.must(err)
	})
	return p
}

func (p *pod) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// start runs a container of the pod; settings, if there are any, change its configuration.
func (p *pod) start(name string, command []string, settings ...func(*cri.ContainerConfig)) string {
	p.t.Helper()
	id, err := p.tryStart(name, command, settings...)
	p.must(err)
	return id
}

func (p *pod) tryStart(name string, command []string,
	settings ...func(*cri.ContainerConfig),
) (string, error) {
	p.t.Helper()
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: busybox},
		Command: command, LogPath: name + ".log",
		Linux: &cri.LinuxContainerConfig{
			SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: p.config.Linux.SecurityContext.NamespaceOptions,
			},
		},
	}
	for _, set := range settings {
		set(config)
	}
	c, err := p.service.CreateContainer(p.ctx, &cri.CreateContainerRequest{
		PodSandboxId: p.id,
		Config:       config, SandboxConfig: p.config,
	})
	p.must(err)
	_, err = p.service.StartContainer(p.ctx, &cri.StartContainerRequest{ContainerId: c.ContainerId})
	return c.ContainerId, err
}

func (p *pod) status(id string) *cri.ContainerStatus {
	p.t.Helper()
	r, err := p.service.ContainerStatus(p.ctx, &cri.ContainerStatusRequest{ContainerId: id})
	p.must(err)
	return r.Status
}

// ended waits until a container has ended.
func (p *pod) ended(id string) *cri.ContainerStatus {
	p.t.Helper()
	eventually(p.t, "the container has ended", func() bool {
		return p.status(id).State == cri.ContainerState_CONTAINER_EXITED
	})
	return p.status(id)
}

func (p *pod) exec(id string, command ...string) *cri.ExecSyncResponse {
	p.t.Helper()
	r, err := p.service.ExecSync(p.ctx, &cri.ExecSyncRequest{
		ContainerId: id, Cmd: command,
		Timeout: int64(limit.Seconds()),
	})
	p.must(err)
	return r
}

// log returns a container's output, without the times.
func (p *pod) log(name string) string {
	p.t.Helper()
	data, err := os.ReadFile(filepath.Join(p.config.LogDirectory, name+".log"))
	p.must(err)
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		_, rest, _ := strings.Cut(line, " ")
		b.WriteString(rest)
	}
	return b.String()
}

func TestCRI(t *testing.T) {
	podNetwork(t)
	startContainerd(t, "k8s.io")
	conn, err := grpc.NewClient("unix://"+containerdSocket,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	service := cri.NewRuntimeServiceClient(conn)
	sleep := []string{"sleep", "1000"}

	t.Run("lifecycle", func(t *testing.T) {
		p := newPod(t, service, "lifecycle")
		s, err := service.PodSandboxStatus(p.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
		p.must(err)
		equal(t, "pod", s.Status.State, cri.PodSandboxState_SANDBOX_READY)
		equal(t, "runtime handler", s.Status.RuntimeHandler, "berth")
		id := p.start("c", []string{"sh", "-c", "echo one; echo two >&2; exit 3"})
		st := p.ended(id)
		equal(t, "exit code", st.ExitCode, 3)
		equal(t, "reason", st.Reason, "Error")
		lines := strings.Split(strings.TrimSpace(p.log("c")), "\n")
		if len(lines) != 2 || !strings.Contains(p.log("c"), "stdout F one\n") ||
			!strings.Contains(p.log("c"), "stderr F two\n") {
			t.Errorf("log: %q", lines)
		}
		_, err = service.RemoveContainer(p.ctx, &cri.RemoveContainerRequest{ContainerId: id})
		p.must(err)
		list, err := service.ListContainers(p.ctx, &cri.ListContainersRequest{})
		p.must(err)
		equal(t, "containers", len(list.Containers), 0)
	})
	t.Run("a command that cannot run", func(t *testing.T) {
		p := newPod(t, service, "cannot")
		for name, want := range map[string]struct {
			command string
			code    int32
			text    string
		}{
			"missing":  {"/missing", 128, "no such file or directory"},
			"path":     {"missing", 128, "executable file not found in $PATH"},
			"passwd":   {"/etc/passwd", 128, "permission denied"},
			"a-folder": {"/etc", 128, "is a directory"},
		} {
			id, err := p.tryStart(name, []string{want.command})
			if err == nil || !strings.Contains(err.Error(), want.text) {
				t.Errorf("%s: found %v, want %q", want.command, err, want.text)
			}
			st := p.ended(id)
			equal(t, "reason", st.Reason, "StartError")
			equal(t, "exit code", st.ExitCode, want.code)
			if !strings.Contains(st.Message, want.text) {
				t.Errorf("the message of the status is %q, want %q", st.Message, want.text)
			}
		}
	})
	t.Run("exec", func(t *testing.T) {
		p := newPod(t, service, "exec")
		id := p.start("c", sleep)
		r := p.exec(id, "sh", "-c", "echo out; echo err >&2; exit 5")
		equal(t, "exit code", r.ExitCode, 5)
		equal(t, "standard output", string(r.Stdout), "out\n")
		equal(t, "standard error", string(r.Stderr), "err\n")
		if _, err := service.ExecSync(p.ctx, &cri.ExecSyncRequest{
			ContainerId: id,
			Cmd:         []string{"missing"},
		}); err == nil || !strings.Contains(err.Error(),
			"executable file not found in $PATH") {
			t.Errorf("missing: %v", err)
		}
		// A probe that takes too long is killed.
		if _, err := service.ExecSync(p.ctx, &cri.ExecSyncRequest{
			ContainerId: id,
			Cmd:         []string{"sleep", "77"}, Timeout: 1,
		}); err == nil || !strings.Contains(err.Error(),
			"timeout") {
			t.Errorf("a command that takes too long: %v", err)
		}
	})
	t.Run("never started", func(t *testing.T) {
		p := newPod(t, service, "never")
		for range 2 {
			c, err := service.CreateContainer(p.ctx, &cri.CreateContainerRequest{
				PodSandboxId:  p.id,
				SandboxConfig: p.config, Config: &cri.ContainerConfig{
					Metadata: &cri.ContainerMetadata{Name: "n"}, Image: &cri.ImageSpec{Image: busybox},
					Command: sleep,
				},
			})
			p.must(err)
			_, err = service.RemoveContainer(p.ctx, &cri.RemoveContainerRequest{ContainerId: c.ContainerId})
			p.must(err)
			// One whose start fails had been created in the runtime.
			id, err := p.tryStart("failing", []string{"/missing"})
			if err == nil {
				t.Error("/missing has started")
			}
			_, err = service.RemoveContainer(p.ctx, &cri.RemoveContainerRequest{ContainerId: id})
			p.must(err)
		}
	})
	t.Run("a network of the pod's own", func(t *testing.T) {
		p := newPod(t, service, "network", ownNetwork)
		id := p.start("c", serve("from a pod"))
		url := "http://" + p.ip() + "/"
		eventually(t, "the pod's page is served", func() bool { return get(url) == "from a pod\n" })
		q := newPod(t, service, "neighbour", ownNetwork)
		other := q.start("c", sleep)
		equal(t, "page as a neighbour has it", string(q.exec(other, "wget", "-q", "-O", "-", url).Stdout),
			"from a pod\n")
		equal(t, "hostname", string(p.exec(id, "hostname").Stdout), "a-pod\n")
		testStreams(t, p, id, "from a pod")
	})
	t.Run("stop", func(t *testing.T) {
		p := newPod(t, service, "stop")
		polite := p.start("polite",
			[]string{"sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"})
		eventually(t, "the trap is set", func() bool {
			return strings.Contains(p.log("polite"), "ready")
		})
		deaf := p.start("deaf", []string{"sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"})
		for id, want := range map[string]struct{ grace, code int64 }{polite: {100, 9}, deaf: {1, 137}} {
			_, err := service.StopContainer(p.ctx, &cri.StopContainerRequest{
				ContainerId: id,
				Timeout:     want.grace,
			})
			p.must(err)
			equal(t, "exit code", int64(p.status(id).ExitCode), want.code)
		}
	})
	t.Run("resources", func(t *testing.T) {
		p := newPod(t, service, "resources")
		limits := func(memory int64) *cri.LinuxContainerResources {
			return &cri.LinuxContainerResources{
				MemoryLimitInBytes: memory, CpuPeriod: 100000,
				CpuQuota: 50000, CpuShares: 512,
			}
		}
		id := p.start("c", sleep, func(c *cri.ContainerConfig) { c.Linux.Resources = limits(64 << 20) })
		read := func(file string) string { return string(p.exec(id, "cat", file).Stdout) }
		inside(t, read, memoryLimit("67108864"), quota(50), shares512())
		_, err := service.UpdateContainerResources(p.ctx,
			&cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: limits(32 << 20)})
		p.must(err)
		inside(t, read, memoryLimit("33554432"), quota(50), shares512())
		stats, err := service.ContainerStats(p.ctx, &cri.ContainerStatsRequest{ContainerId: id})
		p.must(err)
		if stats.Stats.Memory.WorkingSetBytes.GetValue() == 0 ||
			stats.Stats.Cpu.UsageCoreNanoSeconds.GetValue() == 0 {
			t.Errorf("stats: %v", stats.Stats)
		}
		oom := p.start("oom", []string{"sh", "-c", hungry}, func(c *cri.ContainerConfig) {
			c.Linux.Resources = limits(16 << 20)
		})
		p.exec(oom, "touch", hungryFile)
		st := p.ended(oom)
		equal(t, "reason of one that needs more", st.Reason, "OOMKilled")
		equal(t, "its exit code", st.ExitCode, 137)
	})
	t.Run("security context", func(t *testing.T) {
		p := newPod(t, service, "security", func(c *cri.PodSandboxConfig) {
			c.Linux.SecurityContext.Privileged = true
		})
		runs := func(name, script string, set func(*cri.ContainerConfig)) string {
			t.Helper()
			p.ended(p.start(name, []string{"sh", "-c", script + " 2>&1"}, set))
			return strings.ReplaceAll(strings.ReplaceAll(p.log(name), "stdout F ", ""), "\n", "|")
		}
		equal(t, "user and groups", runs("user", "id -u; id -g; id -G", func(c *cri.ContainerConfig) {
			s := c.Linux.SecurityContext
			s.RunAsUser, s.RunAsGroup, s.SupplementalGroups = &cri.Int64Value{Value: 12},
				&cri.Int64Value{Value: 34}, []int64{56}
		}), "12|34|34 56|")
		equal(t, "read-only root", runs("readonly", "touch /x", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.ReadonlyRootfs = true
		}), "touch: /x: Read-only file system|")
		equal(t, "no capabilities", runs("capabilities", "grep CapEff /proc/self/status",
			func(c *cri.ContainerConfig) {
				c.Linux.SecurityContext.Capabilities = &cri.Capability{DropCapabilities: []string{"ALL"}}
			}), "CapEff:\t0000000000000000|")
		equal(t, "runtime's own seccomp profile", runs("seccomp", "grep Seccomp: /proc/self/status",
			func(c *cri.ContainerConfig) {
				c.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{
					ProfileType: cri.SecurityProfile_RuntimeDefault,
				}
			}), "Seccomp:\t2|")
		equal(t, "privileged", runs("privileged", "mount -t tmpfs x /mnt && stat -f -c %T /mnt",
			func(c *cri.ContainerConfig) {
				c.Linux.SecurityContext.Privileged = true
			}), "tmpfs|")
		dir := filepath.Join(work, "cri-volume")
		write(t, filepath.Join(dir, "f"), "from the host\n")
		equal(t, "mount", runs("mount", "cat /v/f; touch /v/g", func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: dir, ContainerPath: "/v", Readonly: true}}
		}), "from the host|touch: /v/g: Read-only file system|")
	})
	t.Run("pid namespace of the pod", func(t *testing.T) {
		p := newPod(t, service, "pid")
		p.start("first", sleep)
		id := p.start("second", []string{"sh", "-c", "while :; do sleep 1; done"},
			func(c *cri.ContainerConfig) {
				c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{
					Network: cri.NamespaceMode_NODE,
					Pid:     cri.NamespaceMode_POD,
				}
			})
		eventually(t, "the first process of the pod is that of its image", func() bool {
			return string(p.exec(id, "cat", "/proc/1/cmdline").Stdout) == "sleep\x002147483647\x00"
		})
	})
	t.Run("the pod ends with all its containers", func(t *testing.T) {
		p := newPod(t, service, "ends")
		id := p.start("c", sleep)
		before := time.Now()
		_, err := service.StopPodSandbox(p.ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
		p.must(err)
		equal(t, "exit code", p.status(id).ExitCode, 137)
		if d := time.Since(before); d > patience(30*time.Second) {
			t.Errorf("it took %v", d)
		}
	})
}
