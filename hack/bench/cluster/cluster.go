// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers"
	"github.com/berth-run/berth/internal/procfs"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// timeout is for whatever is waited for.
const timeout = 30 * time.Minute

// cluster is one of hack/cluster, as its administrator sees it.
type cluster struct {
	dir, assets string
	config      *rest.Config
	client      client.WithWatch
	kube        *kubernetes.Clientset
}

func newCluster(dir, assets string) (*cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "kubeconfig"))
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	scheme, err := controllers.Scheme()
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, assets: assets, config: config}
	if c.client, err = client.NewWithWatch(config, client.Options{Scheme: scheme}); err != nil {
		return nil, err
	}
	c.kube, err = kubernetes.NewForConfig(config)
	return c, err
}

// programs of the cluster, in the order in which they are printed.
var programs = []string{"kube-apiserver", "etcd", "berth-controller", "berth-agent", "supervisor"}

// pid returns the process of a program.
func (c *cluster) pid(name string) (int, error) {
	if name == "supervisor" {
		return c.supervisor()
	}
	text, err := os.ReadFile(filepath.Join(c.dir, "run", name+".json"))
	if err != nil {
		return 0, err
	}
	var record struct{ PID int }
	err = json.Unmarshal(text, &record)
	return record.PID, err
}

// supervisor asks the supervisor of the cluster's agent for its process.
func (c *cluster) supervisor() (int, error) {
	pid, err := c.pid("berth-agent")
	if err != nil {
		return 0, err
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return 0, err
	}
	args := strings.Split(string(line), "\x00")
	i := slices.Index(args, "--run-dir")
	if i < 0 || i+1 == len(args) {
		return 0, fmt.Errorf("berth-agent: found no --run-dir in %q", args)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return protocol.NewClient(filepath.Join(args[i+1], "supervisor.sock")).Ping(ctx)
}

// restart ends a program and has hack/cluster start it again. It returns when it was started.
func (c *cluster) restart(ctx context.Context, name string) (sinceBoot, error) {
	pid, err := c.pid(name)
	if err != nil {
		return 0, err
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return 0, err
	}
	for {
		if st, err := procfs.ReadStat(pid); err != nil || st.Ended() {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	up := exec.CommandContext(ctx, "bin/berth-cluster", "up", "--dir", c.dir, "--assets", c.assets)
	if out, err := up.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("start %s again: %w\n%s", name, err, out)
	}
	if pid, err = c.pid(name); err != nil {
		return 0, err
	}
	return startOf(pid)
}

// usage returns the processor time that each program has used, and the API server's counters.
func (c *cluster) usage(ctx context.Context) (map[string]time.Duration, counters, error) {
	cpu, err := c.cpuTimes()
	if err != nil {
		return nil, nil, err
	}
	m, err := c.metrics(ctx)
	return cpu, m, err
}

// cpuTimes returns the processor time that each program has used.
func (c *cluster) cpuTimes() (map[string]time.Duration, error) {
	times := map[string]time.Duration{}
	for _, name := range programs {
		pid, err := c.pid(name)
		if err != nil {
			return nil, err
		}
		if times[name], err = procfs.ReadCPUTime(pid); err != nil {
			return nil, err
		}
	}
	return times, nil
}

// memory returns a line with the memory of each program.
func (c *cluster) memory() (string, error) {
	var parts []string
	for _, name := range programs {
		pid, err := c.pid(name)
		if err != nil {
			return "", err
		}
		m, err := procfs.ReadMemory(pid)
		if err != nil {
			return "", err
		}
		parts = append(parts, fmt.Sprintf("%s %.0f (RSS %.0f, peak %.0f)", name, mib(m.PSS), mib(m.RSS),
			mib(m.Peak)))
	}
	return strings.Join(parts, ", "), nil
}

func mib(kib int) float64 { return float64(kib) / 1024 }

// counters are values of the API server's metrics, by name and labels.
type counters map[string]float64

var (
	metricLine = regexp.MustCompile(
		`^(apiserver_request_total|apiserver_longrunning_requests|apiserver_resource_objects|apiserver_storage_objects)\{(.*)\} (\S+)$`)
	metricLabel = regexp.MustCompile(`(\w+)="([^"]*)"`)
)

// metrics reads the API server's counters: requests that it has granted, as "VERB
// resource/subresource", long-running ones that are open, as "open VERB resource", and objects, as
// "objects resource".
func (c *cluster) metrics(ctx context.Context) (counters, error) {
	text, err := c.kube.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	all := counters{}
	s := bufio.NewScanner(bytes.NewReader(text))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		m := metricLine.FindStringSubmatch(s.Text())
		if m == nil {
			continue
		}
		label := map[string]string{}
		for _, l := range metricLabel.FindAllStringSubmatch(m[2], -1) {
			label[l[1]] = l[2]
		}
		value, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: %q: %w", s.Text(), err)
		}
		resource := label["resource"]
		if sub := label["subresource"]; sub != "" {
			resource += "/" + sub
		}
		switch {
		case m[1] == "apiserver_longrunning_requests":
			all["open "+label["verb"]+" "+resource] += value
		case m[1] != "apiserver_request_total":
			all["objects "+resource] += value
		case strings.HasPrefix(label["code"], "2"):
			all[label["verb"]+" "+resource] += value
		default:
			all["refused "+label["code"]+" "+label["verb"]+" "+resource] += value
		}
	}
	return all, s.Err()
}

// since returns the differences to earlier counters.
func (m counters) since(before counters) counters {
	more := counters{}
	for key, value := range m {
		if n := value - before[key]; n != 0 {
			more[key] = n
		}
	}
	return more
}

// sorted returns the keys that a function wants, the largest value first.
func (m counters) sorted(wanted func(string) bool) []string {
	return slices.SortedFunc(func(yield func(string) bool) {
		for key := range m {
			if wanted(key) && !yield(key) {
				return
			}
		}
	}, func(a, b string) int { return int(m[b] - m[a]) })
}

// isWrite reports whether a counter is of requests that write objects.
func isWrite(key string) bool {
	verb, _, _ := strings.Cut(key, " ")
	return slices.Contains([]string{
		"POST", "PUT", "PATCH", "APPLY", "DELETE",
		"DELETECOLLECTION",
	}, verb)
}

// container returns a Container that sleeps.
func container(name, archive string) *v1alpha1.Container {
	c := &v1alpha1.Container{ObjectMeta: metav1.ObjectMeta{
		Namespace: metav1.NamespaceDefault,
		Name:      name,
	}}
	seconds := int64(0)
	c.Spec.Archive = &v1alpha1.Archive{Path: archive}
	c.Spec.Command = []string{"/bin/sleep", "1000000"}
	c.Spec.TerminationGracePeriodSeconds = &seconds
	return c
}

// parallel calls do for 0 to n-1, 16 at a time.
func parallel(n int, do func(int) error) error {
	work, failed := make(chan int), make(chan error, 16)
	for range 16 {
		go func() {
			var err error
			for i := range work {
				if err == nil {
					err = do(i)
				}
			}
			failed <- err
		}()
	}
	for i := range n {
		work <- i
	}
	close(work)
	var err error
	for range 16 {
		err = errors.Join(err, <-failed)
	}
	return err
}

// quantiles returns p50, p90, p99 and the largest of some durations.
func quantiles(all []time.Duration) string {
	if len(all) == 0 {
		return "none"
	}
	slices.Sort(all)
	at := func(p int) time.Duration {
		return all[min(len(all)*p/100, len(all)-1)].Round(time.Millisecond)
	}
	return fmt.Sprintf("p50 %s, p90 %s, p99 %s, at most %s", at(50), at(90), at(99), at(100))
}

// printCPU prints the processor time of each program, divided by n.
func printCPU(before, after map[string]time.Duration, n float64, unit string) {
	var sum time.Duration
	var parts []string
	for _, name := range programs {
		used := after[name] - before[name]
		sum += used
		parts = append(parts, fmt.Sprintf("%s %.1f", name, 1000*used.Seconds()/n))
	}
	fmt.Printf("  processor time, ms %s: %.1f (%s)\n", unit, 1000*sum.Seconds()/n,
		strings.Join(parts, ", "))
}

// list names some counters and their values, divided by n.
func (m counters) list(keys []string, n float64, format string) string {
	var parts []string
	for _, key := range keys {
		parts = append(parts, fmt.Sprintf("%s "+format, key, m[key]/n))
	}
	return strings.Join(parts, ", ")
}
