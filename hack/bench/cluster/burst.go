// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/procfs"
)

// sinceBoot is a time by the clock that the start times of processes are of.
type sinceBoot time.Duration

func now() sinceBoot {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // it takes no other argument that could be wrong
	}
	return sinceBoot(t.Nano())
}

func (t sinceBoot) since(before sinceBoot) time.Duration { return time.Duration(t - before) }

// startOf returns the time at which a process was created.
func startOf(pid int) (sinceBoot, error) {
	st, err := procfs.ReadStat(pid)
	return sinceBoot(st.StartTime) * sinceBoot(procfs.Tick), err
}

// burst applies Containers at once.
type burst struct {
	count   int
	archive string
	settle  time.Duration
	fake    bool // there are no processes
}

// sighting is a Container as the watch has shown it.
type sighting struct {
	applied, shown, started sinceBoot
}

func (b burst) run(ctx context.Context, c *cluster) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if _, err := c.place(ctx, container("first", b.archive)); err != nil { // has the image unpacked
		return err
	}
	before, err := c.metrics(ctx)
	if err != nil {
		return err
	}
	cpuBefore, err := c.cpuTimes()
	if err != nil {
		return err
	}
	began := now()
	seen, err := b.apply(ctx, c)
	if err != nil {
		return err
	}
	b.report(seen, began)
	cpuAfter, err := c.cpuTimes()
	if err != nil {
		return err
	}
	printCPU(cpuBefore, cpuAfter, float64(b.count), "a container")
	if err := c.quiet(ctx); err != nil {
		return err
	}
	if err := b.printWrites(ctx, c, before); err != nil {
		return err
	}
	if err := c.printBundle(ctx); err != nil {
		return err
	}
	if err := b.printMemory(ctx, c); err != nil {
		return err
	}
	return b.remove(ctx, c)
}

// place applies a Container, and returns it as it is when its status says that it runs.
func (c *cluster) place(ctx context.Context, want *v1alpha1.Container) (*v1alpha1.Container,
	error,
) {
	if err := c.client.Create(ctx, want); err != nil {
		return nil, err
	}
	for ; ; time.Sleep(20 * time.Millisecond) {
		if err := c.client.Get(ctx, client.ObjectKeyFromObject(want), want); err != nil {
			return nil, err
		}
		if want.Status.Phase == v1alpha1.ContainerRunning {
			return want, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w: %+v", want.Name, ctx.Err(), want.Status)
		}
	}
}

// apply creates all Containers, waits until all of them are shown as running, and returns their
// times.
func (b burst) apply(ctx context.Context, c *cluster) (map[string]*sighting, error) {
	name := func(i int) string { return fmt.Sprintf("c%d", i) }
	list := &v1alpha1.ContainerList{}
	if err := c.client.List(ctx, list); err != nil {
		return nil, err
	}
	watcher, err := c.client.Watch(ctx, &v1alpha1.ContainerList{},
		&client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})
	if err != nil {
		return nil, err
	}
	defer watcher.Stop()
	applied, failed := make([]sinceBoot, b.count), make(chan error, 1)
	go func() {
		began := now()
		err := parallel(b.count, func(i int) error {
			applied[i] = now()
			return c.client.Create(ctx, container(name(i), b.archive))
		})
		fmt.Printf("%d Containers applied in %s\n", b.count,
			now().since(began).Round(10*time.Millisecond))
		failed <- err
	}()
	seen := map[string]*sighting{}
	isOurs := map[string]bool{}
	for i := range b.count {
		isOurs[name(i)] = true
	}
	for len(seen) < b.count {
		event, ok := <-watcher.ResultChan()
		if !ok || event.Type == watch.Error {
			return nil, fmt.Errorf("the watch ended with %d of %d: %+v", len(seen), b.count, event.Object)
		}
		o, ok := event.Object.(*v1alpha1.Container)
		if !ok || !isOurs[o.Name] || o.Status.Phase != v1alpha1.ContainerRunning || seen[o.Name] != nil {
			continue
		}
		s := &sighting{shown: now()}
		if !b.fake {
			if s.started, err = startOf(int(o.Status.PID)); err != nil {
				return nil, fmt.Errorf("%s is shown as running: %w", o.Name, err)
			}
		}
		seen[o.Name] = s
	}
	if err := <-failed; err != nil {
		return nil, err
	}
	for i, at := range applied {
		seen[name(i)].applied = at
	}
	return seen, nil
}

func (b burst) report(seen map[string]*sighting, began sinceBoot) {
	var lag, whole []time.Duration
	var lastStart, lastShown sinceBoot
	for _, s := range seen {
		lag, whole = append(lag, s.shown.since(s.started)), append(whole, s.shown.since(s.applied))
		lastStart, lastShown = max(lastStart, s.started), max(lastShown, s.shown)
	}
	fmt.Printf("  all processes run after %s, all are shown as running after %s (%.0f a second)\n",
		lastStart.since(began).Round(10*time.Millisecond),
		lastShown.since(began).Round(10*time.Millisecond),
		float64(b.count)/lastShown.since(began).Seconds())
	fmt.Printf("  from the start of a process until its Container is shown as running: %s\n",
		quantiles(lag))
	fmt.Printf("  from apply until then: %s\n", quantiles(whole))
}

// quiet waits until the API server has written no object of a Container for some seconds.
func (c *cluster) quiet(ctx context.Context) error {
	last := counters{}
	for same := 0; same < 5; same++ {
		m, err := c.metrics(ctx)
		if err != nil {
			return err
		}
		for _, key := range m.since(last).sorted(isWrite) {
			if !isHeartbeat(key) {
				same = 0
			}
		}
		last = m
		time.Sleep(time.Second)
	}
	return nil
}

// isHeartbeat reports whether a counter counts the regular writes of agents.
func isHeartbeat(key string) bool {
	return key == "PUT leases" || key == "APPLY nodeagents/status" || key == "APPLY nodeagents" ||
		key == "POST leases"
}

func (b burst) printWrites(ctx context.Context, c *cluster, before counters) error {
	after, err := c.metrics(ctx)
	if err != nil {
		return err
	}
	more := after.since(before)
	var total, events float64
	keys := more.sorted(isWrite)
	for _, key := range keys {
		switch {
		case key == "POST events" || key == "PATCH events":
			events += more[key]
		case !isHeartbeat(key):
			total += more[key]
		}
	}
	fmt.Printf("  writes a container: %.2f, and %.2f of events (goal: at most 5 in all): %s\n",
		total/float64(b.count), events/float64(b.count), more.list(keys, 1, "%.0f"))
	refused := more.sorted(func(key string) bool { return !isWrite(key) && key[:3] == "ref" })
	fmt.Printf("  refused: %s\n", more.list(refused, 1, "%.0f"))
	return nil
}

func (c *cluster) printBundle(ctx context.Context) error {
	list := &v1alpha1.OCIBundleList{}
	if err := c.client.List(ctx, list, client.Limit(1)); err != nil {
		return err
	}
	for i := range list.Items {
		whole, err := json.Marshal(&list.Items[i])
		if err != nil {
			return err
		}
		spec, err := json.Marshal(list.Items[i].Spec)
		if err != nil {
			return err
		}
		fields, err := json.Marshal(list.Items[i].ManagedFields)
		if err != nil {
			return err
		}
		fmt.Printf("  an OCIBundle: %d bytes of JSON, of which spec %d, managedFields %d\n", len(whole),
			len(spec), len(fields))
	}
	return nil
}

// printMemory prints the memory of all programs as they are, after a restart of the agent, and
// after one of the controller.
func (b burst) printMemory(ctx context.Context, c *cluster) error {
	print := func(when string) error {
		time.Sleep(b.settle)
		line, err := c.memory()
		if err == nil {
			fmt.Printf("  PSS, MiB, %s: %s\n", when, line)
		}
		return err
	}
	if err := print("with all running"); err != nil {
		return err
	}
	for _, name := range []string{"berth-agent", "berth-controller"} {
		before, err := c.metrics(ctx)
		if err != nil {
			return err
		}
		if _, err := c.restart(ctx, name); err != nil {
			return err
		}
		if err := print("after a restart of " + name); err != nil {
			return err
		}
		after, err := c.metrics(ctx)
		if err != nil {
			return err
		}
		more := after.since(before)
		fmt.Printf("  writes since then: %s\n", more.list(more.sorted(isWrite), 1, "%.0f"))
	}
	return nil
}

// remove deletes all Containers, and prints how long that takes.
func (b burst) remove(ctx context.Context, c *cluster) error {
	before, err := c.metrics(ctx)
	if err != nil {
		return err
	}
	cpuBefore, err := c.cpuTimes()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := c.removeAll(ctx); err != nil {
		return err
	}
	took := time.Since(began)
	after, err := c.metrics(ctx)
	if err != nil {
		return err
	}
	more := after.since(before)
	fmt.Printf("%d Containers deleted in %s; writes: %s\n", b.count, took.Round(10*time.Millisecond),
		more.list(more.sorted(isWrite), 1, "%.0f"))
	cpuAfter, err := c.cpuTimes()
	if err != nil {
		return err
	}
	printCPU(cpuBefore, cpuAfter, float64(b.count), "a container")
	return nil
}

// removeAll deletes all Containers, and waits until they are gone. It deletes one by one: a request
// for all of a thousand would take longer than the API server lets it.
func (c *cluster) removeAll(ctx context.Context) error {
	list := &v1alpha1.ContainerList{}
	if err := c.client.List(ctx, list); err != nil {
		return err
	}
	err := parallel(len(list.Items), func(i int) error { return c.client.Delete(ctx, &list.Items[i]) })
	for ; err == nil && len(list.Items) > 0; time.Sleep(100 * time.Millisecond) {
		err = c.client.List(ctx, list)
	}
	return err
}
