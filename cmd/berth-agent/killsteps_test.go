// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/chaostest"
)

// stepScenario is a part of a container's life in which a process is killed at each of its steps.
type stepScenario struct {
	name string
	// before brings the container to where the part begins; nil for nothing.
	before func(r *stepRun)
	// act begins the part, by a change of manifests.
	act func(r *stepRun)
	// over reports whether the part has come to its end.
	over func(r *stepRun) bool
	// check asserts what must be true at the end.
	check func(r *stepRun)
	// network gives the host a network for its containers.
	network bool
}

// stepRun is one run of a scenario, with a container of its own on a host that is used again.
type stepRun struct {
	*host
	name string
	// variables are further items of env.
	variables string
	// removed says that the scenario has removed the manifest.
	removed bool
}

// manifest writes the container's manifest. The program records its actions in the host's file
// $NOTES. more are lines of the spec.
func (r *stepRun) manifest(policy, script string, more ...string) {
	r.write(r.name+".yaml", fmt.Sprintf(`  archive: {path: %s/busybox.tar}
  restartPolicy: %s
  terminationGracePeriodSeconds: 60
  command: [/bin/sh, -c, %q]
  env: [{name: NOTES, value: /notes/%s}%s]
  volumes: [{name: notes, hostPath: {path: %s}}, {name: disk, emptyDir: {}}]
  volumeMounts: [{name: notes, mountPath: /notes}, {name: disk, mountPath: /disk}]
`, programs, policy, script, r.name, r.variables, r.path("notes"))+strings.Join(more, ""))
	r.rescan()
}

// rescan has the agent look at its manifests at once.
func (r *stepRun) rescan() {
	if r.agent != nil {
		_ = r.agent.Process.Signal(unix.SIGHUP)
	}
}

func (r *stepRun) notes() string {
	data, _ := os.ReadFile(filepath.Join(r.path("notes"), r.name))
	return strings.TrimSpace(strings.ReplaceAll(string(data), "\n", " "))
}

// numberedLines is the number of lines that count writes.
const numberedLines = 20

const count = `i=0; while [ $i -lt 20 ]; do echo line $i; i=$((i+1)); done; `

func counted() string {
	var b strings.Builder
	for i := range numberedLines {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	return b.String()
}

// ended reports whether the container has ended for good.
func (r *stepRun) ended(phase v1alpha1.ContainerPhase) bool {
	c := r.get(r.name)
	return c != nil && c.Status.Phase == phase && c.Status.State.Terminated != nil
}

func (r *stepRun) exitCode(want int32) {
	r.t.Helper()
	if c := r.get(r.name); c.Status.State.Terminated.ExitCode != want {
		r.t.Errorf("found %+v; want exit code %d", c.Status.State.Terminated, want)
	}
}

func (r *stepRun) noted(want string) {
	r.t.Helper()
	if got := r.notes(); got != want {
		r.t.Errorf("the program noted %q; want %q", got, want)
	}
}

func (r *stepRun) wrote(want string, args ...string) {
	r.t.Helper()
	got := r.logs(append(args, r.name)...)
	if strings.TrimSuffix(got, "\n") != strings.TrimSuffix(want, "\n") {
		r.t.Errorf("found log %q; want %q", got, want)
	}
}

const slowStop = `trap 'trap "" TERM; echo term >>$NOTES; echo stopping; sleep 0.2; echo bye >>$NOTES; echo bye; exit 3' TERM; echo start >>$NOTES; ` + count +
	`echo ready >>$NOTES; while true; do sleep 0.02; done`

var stepScenarios = []stepScenario{
	{
		name: "job",
		act: func(r *stepRun) {
			r.manifest("Never", "echo start >>$NOTES; "+count+"printf end; exit 7")
		},
		over: func(r *stepRun) bool { return r.ended(v1alpha1.ContainerFailed) },
		check: func(r *stepRun) {
			r.exitCode(7)
			r.noted("start")
			r.wrote(counted() + "end")
		},
	},
	{
		name: "restart on failure",
		before: func(r *stepRun) {
			r.manifest("OnFailure", "[ -e $NOTES.go ] || first=1; echo start >>$NOTES; "+count+
				"if [ $first ]; then while [ ! -e $NOTES.go ]; do sleep 0.02; done; echo first; exit 9; fi; printf second; exit 0")
			r.until("the first program has started", func() bool {
				return strings.Contains(r.notes(), "start")
			})
		},
		act: func(r *stepRun) {
			if err := os.WriteFile(filepath.Join(r.path("notes"), r.name+".go"), nil, 0o600); err != nil {
				r.t.Fatal(err)
			}
		},
		over: func(r *stepRun) bool { return r.ended(v1alpha1.ContainerSucceeded) },
		check: func(r *stepRun) {
			r.exitCode(0)
			c := r.get(r.name)
			if last := c.Status.LastState.Terminated; c.Status.RestartCount != 1 || last == nil ||
				last.ExitCode != 9 {
				r.t.Errorf("found %d restarts after %+v; want 1 after exit code 9", c.Status.RestartCount, last)
			}
			r.noted("start start")
			r.wrote(counted()+"first\n", "--previous")
			r.wrote(counted() + "second")
		},
	},
	{
		name: "replace",
		before: func(r *stepRun) {
			r.manifest("Always", slowStop)
			r.until("the first program is ready", func() bool {
				return strings.Contains(r.notes(), "ready")
			})
		},
		act: func(r *stepRun) { r.manifest("Never", "echo new >>$NOTES; "+count+"printf new; exit 5") },
		over: func(r *stepRun) bool {
			return r.ended(v1alpha1.ContainerFailed) && strings.Contains(r.notes(), "new")
		},
		check: func(r *stepRun) {
			r.exitCode(5)
			r.noted("start ready term bye new")
			r.wrote(counted()+"stopping\nbye\n", "--previous")
			r.wrote(counted() + "new")
		},
	},
	{
		name: "delete",
		before: func(r *stepRun) {
			r.manifest("Always", slowStop)
			r.until("the program is ready", func() bool { return strings.Contains(r.notes(), "ready") })
		},
		act: func(r *stepRun) {
			r.remove(r.name + ".yaml")
			r.rescan()
		},
		over: func(r *stepRun) bool {
			bundles, _ := filepath.Glob(r.path("s/bundles/*" + r.name + "*"))
			return r.get(r.name) == nil && len(bundles) == 0
		},
		check: func(r *stepRun) { r.noted("start ready term bye") },
	},
	{
		name: "limits of the log",
		before: func(r *stepRun) {
			r.manifest("Always", limitedProgram)
			r.until("the program is ready", func() bool { return r.notes() == "start ready" })
		},
		act: func(r *stepRun) {
			r.manifest("Always", limitedProgram,
				"  resources: {limits: {pids: 20}}\n  logging: {maxSize: 32Ki, maxFiles: 2}\n")
		},
		over: func(r *stepRun) bool {
			c := r.get(r.name)
			if c == nil || c.Generation != 2 || c.Status.ObservedGeneration != 2 {
				return false
			}
			s := logSizes(c.Status.LogPath)
			return len(s) == 2 && s[0] <= 32<<10 && c.Status.PID != 0 &&
				limitsOf(r.t, c.Status.PID).pids == "20"
		},
		check: func(r *stepRun) {
			r.noted("start ready")
			var lines strings.Builder
			for i := range 10000 {
				fmt.Fprintln(&lines, i+1)
			}
			r.wrote(lines.String())
		},
	},
}

// connected is the life of a container on a network, from its start to its removal. Only the agent
// has it: the supervisor knows no networks.
var connected = stepScenario{
	name:    "network",
	network: true,
	before: func(r *stepRun) {
		// The only manifest is not removed without a confirmation.
		const other = "other"
		r.write(other+".yaml", "  archive: {path: "+programs+
			"/busybox.tar}\n  command: [/bin/true]\n  restartPolicy: Never\n  hostNetwork: true\n")
		r.until("the other container has ended", func() bool {
			c := r.get(other)
			return c != nil && c.Status.Phase == v1alpha1.ContainerSucceeded
		})
	},
	act: func(r *stepRun) {
		r.variables = ", {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}"
		r.manifest("Never",
			"echo start >>$NOTES; hostname -i; echo $IP; grep -c 192.0.2.7 /etc/hosts /etc/resolv.conf; while [ ! -e $NOTES.go ]; do sleep 0.02; done; exit 7",
			"  ports: [{containerPort: 80, hostPort: 8080}]\n  dnsPolicy: ClusterFirst\n"+
				"  hostAliases: [{ip: 192.0.2.7, hostnames: [db]}]\n  dnsConfig: {searches: [192.0.2.7.example], nameservers: [192.0.2.1, 192.0.2.2, 192.0.2.3]}\n")
	},
	over: func(r *stepRun) bool {
		if r.removed {
			bundles, _ := filepath.Glob(r.path("s/bundles/*_" + r.name + "_*"))
			return r.get(r.name) == nil && len(bundles) == 0
		}
		if c := r.get(r.name); r.notes() == "" || c != nil && c.Status.State.Running != nil &&
			r.dnsNotice(r.name) == "" {
			return false
		}
		if err := os.WriteFile(filepath.Join(r.path("notes"), r.name+".go"), nil, 0o600); err != nil {
			r.t.Fatal(err)
		}
		if r.ended(v1alpha1.ContainerFailed) && r.takesSignals() {
			ips := r.get(r.name).Status.IPs
			if len(ips) != 2 || r.logs(r.name) !=
				ips[0].IP+"\n"+ips[0].IP+"\n/etc/hosts:1\n/etc/resolv.conf:1\n" {
				r.t.Errorf("the program found %q; want the first address of two of the status, %v, and 192.0.2.7, each twice",
					r.logs(r.name), ips)
			}
			r.removed = true
			r.remove(r.name + ".yaml")
			r.rescan()
		}
		return false
	},
	check: func(r *stepRun) {
		r.noted("start")
		r.checkNetworkIsClean()
	},
}

// limitedProgram writes more than 32 KiB at once, and nothing after that.
const limitedProgram = `trap 'exit 0' TERM; echo start >>$NOTES; seq 1 10000; echo ready >>$NOTES; while true; do sleep 0.02; done`

// takeover is the start of an agent while a container runs, up to the container's end, which comes
// once the agent holds it. Only the agent has a scenario of its start.
var takeover = stepScenario{
	name: "takeover",
	before: func(r *stepRun) {
		r.manifest("Never", "echo start >>$NOTES; "+count+
			"while [ ! -e $NOTES.go ]; do sleep 0.02; done; printf end; exit 7")
		r.until("the program has started", func() bool { return r.notes() == "start" })
		r.until("the agent holds it", r.holds)
		r.signal(unix.SIGKILL)
		// It waits for the killer, which then sees its first step.
		r.tracer = waitForCont()
		r.start()
		r.tracer = nil
		r.until("the next agent waits", func() bool { return procState(r.agent.Process.Pid) == "T" })
	},
	act: func(r *stepRun) { _ = r.agent.Process.Signal(unix.SIGCONT) },
	over: func(r *stepRun) bool {
		if r.agent != nil && r.holds() {
			if err := os.WriteFile(filepath.Join(r.path("notes"), r.name+".go"), nil, 0o600); err != nil {
				r.t.Fatal(err)
			}
		}
		return r.ended(v1alpha1.ContainerFailed)
	},
	check: func(r *stepRun) {
		r.exitCode(7)
		r.noted("start")
		r.wrote(counted() + "end")
	},
}

// waitForSecret is about the agent alone: there is no container before the Secret.
var waitForSecret = stepScenario{
	name: "wait for a Secret",
	before: func(r *stepRun) {
		r.write(r.name+".yaml", fmt.Sprintf(`  archive: {path: %s/busybox.tar}
  restartPolicy: Never
  command: [/bin/sh, -c, 'echo "start $WORD" >>/notes/%s']
  env: [{name: WORD, valueFrom: {secretKeyRef: {name: %s, key: word}}}]
  volumes: [{name: top, hostPath: {path: %s}}]
  volumeMounts: [{name: top, mountPath: /notes, subPath: notes}]
`, programs, r.name, r.name, r.path("")))
		r.rescan()
		r.untilWaits(r.name, "found no Secret "+r.name)
	},
	act: func(r *stepRun) {
		r.raw(r.name+"-secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: "+r.name+
			"}\nstringData: {word: hello}\n")
		r.rescan()
	},
	over: func(r *stepRun) bool { return r.ended(v1alpha1.ContainerSucceeded) },
	check: func(r *stepRun) {
		r.exitCode(0)
		r.noted("start hello")
	},
}

// refreshFiles is about the agent alone: the files of a running container follow a ConfigMap.
var refreshFiles = stepScenario{
	name: "refresh the files of a volume",
	before: func(r *stepRun) {
		r.configMap("one")
		r.write(r.name+".yaml", fmt.Sprintf(`  archive: {path: %s/busybox.tar}
  restartPolicy: Never
  command: [/bin/sh, -c, 'cat /files/a >>/notes/%s; while ! grep -q two /files/a; do sleep 0.02; done; cat /files/..data/a /files/d/b >>/notes/%s']
  volumes:
  - {name: notes, hostPath: {path: %s}}
  - {name: files, configMap: {name: %s, items: [{key: a, path: a}, {key: b, path: d/b}]}}
  volumeMounts: [{name: notes, mountPath: /notes}, {name: files, mountPath: /files}]
`, programs, r.name, r.name, r.path("notes"), r.name))
		r.rescan()
		r.until("the program has started", func() bool { return r.notes() == "one" })
	},
	act:  func(r *stepRun) { r.configMap("two") },
	over: func(r *stepRun) bool { return r.ended(v1alpha1.ContainerSucceeded) },
	check: func(r *stepRun) {
		r.exitCode(0)
		r.noted("one two two")
		r.removeAll(r.name+".yaml", r.name+"-config.yaml")
		if left := r.leftovers(); left != (counts{}) {
			r.t.Errorf("found %+v left", left)
		}
	},
}

// restartForObject is about the agent alone: a change of a ConfigMap restarts a container once.
var restartForObject = stepScenario{
	name: "restart for a ConfigMap",
	before: func(r *stepRun) {
		r.configMap("one")
		r.write(r.name+".yaml", fmt.Sprintf(`  archive: {path: %s/busybox.tar}
  restartPolicy: OnFailure
  onConfigChange: Restart
  terminationGracePeriodSeconds: 60
  command: [/bin/sh, -c, 'trap "exit 3" TERM; echo $a >>/notes/%s; [ $a != two ] || exit 0; while true; do sleep 0.02; done']
  envFrom: [{configMapRef: {name: %s}}]
  volumes: [{name: notes, hostPath: {path: %s}}]
  volumeMounts: [{name: notes, mountPath: /notes}]
`, programs, r.name, r.name, r.path("notes")))
		r.rescan()
		r.until("the program has started", func() bool { return r.notes() == "one" })
	},
	act:  func(r *stepRun) { r.configMap("two") },
	over: func(r *stepRun) bool { return r.ended(v1alpha1.ContainerSucceeded) },
	check: func(r *stepRun) {
		r.noted("one two")
		if c := r.get(r.name); c.Status.RestartCount != 1 {
			r.t.Errorf("found %d restarts; want 1", c.Status.RestartCount)
		}
		r.removeAll(r.name+".yaml", r.name+"-config.yaml")
	},
}

// volumeOfClaim is about the agent alone: a container starts with a new volume, and is removed.
var volumeOfClaim = stepScenario{
	name: "volume of a claim",
	act: func(r *stepRun) {
		r.raw(r.name+"-claim.yaml", pvc(r.name, "ReadWriteOncePod"))
		r.write(r.name+".yaml", fmt.Sprintf(`  archive: {path: %s/busybox.tar}
  restartPolicy: Never
  command: [/bin/sh, -c, 'echo start >>/data/starts; stat -c %%a /data >>/data/starts']
  securityContext: {runAsUser: 1000}
  volumes: [{name: data, persistentVolumeClaim: {claimName: %s}}]
  volumeMounts: [{name: data, mountPath: /data}]
`, programs, r.name))
		r.rescan()
	},
	over: func(r *stepRun) bool {
		if r.removed {
			bundles, _ := filepath.Glob(r.path("s/bundles/*_" + r.name + "_*"))
			return r.get(r.name) == nil && len(bundles) == 0
		}
		if r.ended(v1alpha1.ContainerSucceeded) && r.takesSignals() {
			r.removed = true
			r.remove(r.name + ".yaml")
			r.rescan()
		}
		return false
	},
	check: func(r *stepRun) {
		data, err := os.ReadFile(r.path("s/volumes/default/" + r.name + "/starts"))
		if string(data) != "start\n777\n" {
			r.t.Errorf("found %q, %v on the volume; want one start, with mode 777", data, err)
		}
		if begun, err := os.ReadDir(r.path("s/volumes/default")); err != nil ||
			slices.ContainsFunc(begun, func(e os.DirEntry) bool { return e.Name()[0] == '.' }) {
			r.t.Errorf("found %v, %v", begun, err)
		}
	},
}

// configMap writes a ConfigMap of the container's name.
func (r *stepRun) configMap(text string) {
	r.raw(r.name+"-config.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: "+r.name+
		"}\ndata: {a: \""+text+"\\n\", b: \""+text+"\\n\"}\n")
	r.rescan()
}

// TestEverySyncStepKilled kills the agent at each step of each scenario. Another agent goes on:
// each program is started as often as without the kill, exit codes and logs are whole, the program
// is asked to stop before it is killed, and nothing is left over.
func TestEverySyncStepKilled(t *testing.T) {
	for _, sc := range append(slices.Clone(stepScenarios), takeover, connected, waitForSecret,
		refreshFiles, restartForObject, volumeOfClaim, joinedNetwork, volumeOfAnother, lentVolume,
		imageVolume) {
		t.Run(sc.name, func(t *testing.T) {
			everyStep(t, sc, func(h *host) int { return h.agent.Process.Pid })
		})
	}
}

// TestEverySupervisorStepKilled does the same with the supervisor; the agent starts another one.
func TestEverySupervisorStepKilled(t *testing.T) {
	for _, sc := range stepScenarios {
		t.Run(sc.name, func(t *testing.T) {
			everyStep(t, sc, func(h *host) int {
				// Supervisors that end again and again are started with longer and longer pauses by
				// the same agent.
				h.signal(unix.SIGTERM)
				h.start()
				h.ready()
				if sc.before != nil {
					h.until("the agent holds the container's descriptors", h.holds)
				}
				return h.supervisor()
			})
		})
	}
}

// holds reports whether the agent holds a process of a container. Its supervisor is no child of it.
func (h *host) holds() bool { return chaostest.Held(h.agent.Process.Pid) > 0 }

// mostSteps exceeds the number of steps of each scenario by far.
const mostSteps = 400

// stepWorkers are the hosts that share the steps of a scenario.
const stepWorkers = 3

// everyStep runs a scenario again and again, with the process killed at its first step, its second
// and so on, until it gets through.
func everyStep(t *testing.T, sc stepScenario, victim func(*host) int) {
	t.Parallel()
	var mu sync.Mutex
	next, through := 1, false
	t.Run("steps", func(t *testing.T) {
		for w := range stepWorkers {
			t.Run(fmt.Sprint("host ", w), func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				if sc.network {
					h.ownNetwork()
				}
				if err := os.Mkdir(h.path("notes"), 0o777); err != nil {
					t.Fatal(err)
				}
				h.start()
				for !t.Failed() {
					mu.Lock()
					n := next
					next++
					stop := through
					mu.Unlock()
					if stop {
						break
					}
					if n > mostSteps {
						t.Fatalf("found no end after %d steps", mostSteps)
					}
					r := &stepRun{host: h, name: fmt.Sprint("step", n)}
					if step := r.run(sc, victim, n); step == "" {
						mu.Lock()
						through = true
						mu.Unlock()
					} else if t.Failed() {
						t.Logf("the process was killed at step %d: %s", n, step)
					}
				}
				if t.Failed() {
					return
				}
				files, _ := filepath.Glob(h.path("m/*.yaml"))
				for i := range files {
					files[i] = filepath.Base(files[i])
				}
				h.removeAll(files...)
				if sc.network {
					h.checkNetworkIsClean()
				}
				h.signal(unix.SIGTERM)
			})
		}
	})
	t.Logf("killed at each of %d steps", next-stepWorkers-1)
}

// run runs the scenario once, and returns the step that the process was killed at, or "" if it has
// none so late.
func (r *stepRun) run(sc stepScenario, victim func(*host) int, n int) string {
	r.ready()
	if sc.before != nil {
		sc.before(r)
	}
	pid := victim(r.host)
	k := killAt(r.t, pid, n)
	sc.act(r)
	agent := r.agent
	revive := func(killed bool) {
		if killed && r.agent == agent && agent.Process.Pid == pid {
			r.waitEnded()
			r.start()
		}
	}
	r.eventually("the end", func() bool {
		revive(k.killed())
		return sc.over(r)
	})
	step := k.end()
	revive(step != "")
	sc.check(r)
	// The agents of later runs would have ever more to take over, and their steps would have no end.
	manifests, err := os.ReadDir(r.path("m"))
	if err != nil {
		r.t.Fatal(err)
	}
	var own []string
	for _, m := range manifests {
		if strings.HasPrefix(m.Name(), r.name+".") || strings.HasPrefix(m.Name(), r.name+"-") {
			own = append(own, m.Name())
		}
	}
	if len(own) > 0 {
		r.removeAll(own...)
	}
	return step
}

// ready waits until the agent and its supervisor answer, and the agent takes signals.
func (h *host) ready() {
	h.t.Helper()
	h.until("the agent is ready", func() bool { return h.takesSignals() && h.supervisorPID() != 0 })
}

// takesSignals reports whether the agent that was started last has come so far that SIGHUP does not
// end it.
func (h *host) takesSignals() bool {
	log, err := os.ReadFile(h.path("agent.log"))
	return err == nil && strings.Contains(string(log[h.logged:]), "agent started")
}

// eventually is until, for an agent that may end.
func (r *stepRun) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("never came: %s; found %+v", what, r.get(r.name))
		}
	}
}
