// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	coordinationv1 "k8s.io/api/coordination/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/v1alpha1"
)

// nodes registers nodes with fake agents.
type nodes struct {
	counts  string
	pace    float64
	rest    time.Duration
	archive string
}

func (n nodes) run(ctx context.Context, c *cluster) error {
	i, err := c.newIssuer()
	if err != nil {
		return err
	}
	// The node of the real agent takes part in nothing: the fake ones have more room.
	before, err := c.metrics(ctx)
	if err != nil {
		return err
	}
	have := 0
	for _, word := range strings.Split(n.counts, ",") {
		want, err := strconv.Atoi(word)
		if err != nil {
			return fmt.Errorf("-nodes: %w", err)
		}
		if err := n.grow(ctx, c, i, have, want); err != nil {
			return err
		}
		have = want
		if err := n.measureRest(ctx, c, have, before); err != nil {
			return err
		}
		if err := n.measureDispatch(ctx, c, have); err != nil {
			return err
		}
		if err := n.measureStart(ctx, c, have); err != nil {
			return err
		}
	}
	return nil
}

// grow starts fake agents, and waits until each has its namespace with all rights, and a Lease.
func (n nodes) grow(ctx context.Context, c *cluster, i *issuer, have, want int) error {
	ctx1, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cpu, before, err := c.usage(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	started := make(chan error, 1)
	go func() {
		for k := have; k < want; k++ {
			if err := startFake(ctx, c, i, fmt.Sprintf("fake-%04d", k)); err != nil {
				started <- err
				return
			}
			time.Sleep(time.Until(began.Add(time.Duration(float64(k+
				1-have) / n.pace * float64(time.Second)))))
		}
		fmt.Printf("%d nodes, %d of them new: agents began within %s\n", want, want-have,
			time.Since(began).Round(100*time.Millisecond))
		started <- nil
	}()
	var bound, beating time.Duration
	for bound == 0 || beating == 0 {
		select {
		case err := <-started:
			if err != nil {
				return err
			}
			started = nil
		case <-time.After(500 * time.Millisecond):
		}
		bindings, leases := &rbacv1.RoleBindingList{}, &coordinationv1.LeaseList{}
		if err := c.client.List(ctx1, bindings, client.HasLabels{v1alpha1.LabelNode},
			fromCache); err != nil {
			return err
		}
		if err := c.client.List(ctx1, leases, client.HasLabels{v1alpha1.LabelNode},
			fromCache); err != nil {
			return err
		}
		// Two for each, and for the node of the real agent.
		if bound == 0 && len(bindings.Items) >= 2*(want+1) {
			bound = time.Since(began)
		}
		if beating == 0 && len(leases.Items) >= want+1 {
			beating = time.Since(began)
		}
	}
	fmt.Printf("  all namespaces, ServiceAccounts and RoleBindings exist after %s, all Leases after %s\n", bound.Round(100*time.Millisecond), beating.Round(100*time.Millisecond))
	after, err := c.cpuTimes()
	if err != nil {
		return err
	}
	printCPU(cpu, after, float64(want-have), "a new node")
	m, err := c.metrics(ctx)
	if err != nil {
		return err
	}
	more := m.since(before)
	fmt.Printf("  requests a new node: %s\n", more.list(slices.DeleteFunc(more.sorted(isRequest),
		func(key string) bool {
			return more[key] < float64(want-have)/10
		}), float64(want-have), "%.1f"))
	return nil
}

// fromCache makes the API server list from its watch cache.
var fromCache = &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: "0"}}

// isRequest reports whether a counter is of requests, granted or refused.
func isRequest(key string) bool {
	return !strings.HasPrefix(key, "open ") && !strings.HasPrefix(key, "objects ")
}

// measureRest prints the cost of nodes that only send heartbeats.
func (n nodes) measureRest(ctx context.Context, c *cluster, have int, atFirst counters) error {
	time.Sleep(30 * time.Second)
	cpu, before, err := c.usage(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	time.Sleep(n.rest)
	seconds := time.Since(began).Seconds()
	after, m, err := c.usage(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("  at rest:\n")
	printCPU(cpu, after, seconds, "a second")
	more := m.since(before)
	fmt.Printf("  requests a second: %s\n", more.list(more.sorted(isRequest), seconds, "%.1f"))
	memory, err := c.memory()
	if err != nil {
		return err
	}
	fmt.Printf("  PSS, MiB: %s\n", memory)
	grown := m.since(atFirst)
	kinds := func(prefix string) string {
		return grown.list(grown.sorted(func(key string) bool {
			return strings.HasPrefix(key, prefix) && grown[key] >= float64(have)/10
		}), float64(have), "%.2f")
	}
	fmt.Printf("  a node: %s; %s\n", kinds("open WATCH"), kinds("objects "))
	lost, err := c.lostNodes(ctx)
	if err == nil {
		fmt.Printf("  nodes that are not Ready: %d\n", lost)
	}
	return err
}

func (c *cluster) lostNodes(ctx context.Context) (int, error) {
	list := &v1alpha1.NodeAgentList{}
	if err := c.client.List(ctx, list); err != nil {
		return 0, err
	}
	lost := 0
	for i := range list.Items {
		ready := slices.ContainsFunc(list.Items[i].Status.Conditions, func(o metav1.Condition) bool {
			return o.Type == v1alpha1.ConditionReady && o.Status == metav1.ConditionTrue
		})
		if !ready {
			lost++
		}
	}
	return lost, nil
}

// measureDispatch prints how long single Containers take to become an OCIBundle, and to be shown as
// running.
func (n nodes) measureDispatch(ctx context.Context, c *cluster, have int) error {
	bundles, err := c.client.Watch(ctx, &v1alpha1.OCIBundleList{})
	if err != nil {
		return err
	}
	defer bundles.Stop()
	var dispatched, shown []time.Duration
	const count = 50
	for k := range count {
		o := container(fmt.Sprintf("n%d-%d", have, k), n.archive)
		began := time.Now()
		at := make(chan time.Duration, 1)
		go func() {
			for event := range bundles.ResultChan() {
				if b, ok := event.Object.(*v1alpha1.OCIBundle); ok && b.Spec.ContainerRef != nil &&
					b.Spec.ContainerRef.Name == o.Name {
					at <- time.Since(began)
					return
				}
			}
			close(at)
		}()
		if _, err := c.place(ctx, o); err != nil {
			return err
		}
		shown = append(shown, time.Since(began))
		took, ok := <-at
		if !ok {
			return fmt.Errorf("the watch of OCIBundles ended")
		}
		dispatched = append(dispatched, took)
		if err := c.client.Delete(ctx, o); err != nil {
			return err
		}
	}
	fmt.Printf("  %d Containers one after the other, from apply to the OCIBundle: %s; until shown as running: %s\n", count, quantiles(dispatched), quantiles(shown))

	const together = 200
	cpu, err := c.cpuTimes()
	if err != nil {
		return err
	}
	began := now()
	seen, err := burst{count: together, archive: n.archive, fake: true}.apply(ctx, c)
	if err != nil {
		return err
	}
	after, err := c.cpuTimes()
	if err != nil {
		return err
	}
	fmt.Printf("  %d Containers at once are shown as running after %s\n", len(seen),
		now().since(began).Round(10*time.Millisecond))
	printCPU(cpu, after, together, "a container")
	return c.removeAll(ctx)
}

// measureStart restarts the controller while a Container waits, and prints how long that takes to
// be dispatched.
func (n nodes) measureStart(ctx context.Context, c *cluster, have int) error {
	pid, err := c.pid("berth-controller")
	if err != nil {
		return err
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return err
	}
	o := container(fmt.Sprintf("n%d-waits", have), n.archive)
	if err := c.client.Create(ctx, o); err != nil {
		return err
	}
	bundles, err := c.client.Watch(ctx, &v1alpha1.OCIBundleList{})
	if err != nil {
		return err
	}
	defer bundles.Stop()
	at := make(chan sinceBoot, 1)
	go func() {
		for event := range bundles.ResultChan() {
			if b, ok := event.Object.(*v1alpha1.OCIBundle); ok && b.Spec.ContainerRef != nil &&
				b.Spec.ContainerRef.Name == o.Name {
				at <- now()
				return
			}
		}
		close(at)
	}()
	started, err := c.restart(ctx, "berth-controller")
	if err != nil {
		return err
	}
	first, ok := <-at
	if !ok {
		return fmt.Errorf("the watch of OCIBundles ended")
	}
	time.Sleep(20 * time.Second)
	cpu, err := c.cpuTimes()
	if err != nil {
		return err
	}
	fmt.Printf("  the controller, started again, has dispatched a Container that waited after %s; it has used %s of processor time 20 s later\n",
		first.since(started).Round(10*time.Millisecond), cpu["berth-controller"])
	return c.removeAll(ctx)
}
