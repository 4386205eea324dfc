// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"time"
)

// flushRules removes the rules and addresses that containers had in the network namespace of the
// benchmark; ctr leaves its own behind.
func flushRules() error {
	return command("sh", "-euc", `for p in iptables ip6tables; do
		for t in nat filter; do $p --wait -t $t -F; $p --wait -t $t -X; done
	done
	find /var/lib/cni -mindepth 1 -delete`)
}

// measureStages prints how long each stage of the agent takes when n containers start at once.
func (h host) measureStages(n int, parent string) (err error) {
	g, err := newCgroup(parent + "/stages")
	if err != nil {
		return err
	}
	a, err := h.berthThatLogs("debug", g)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close(), leave(), flushRules()) }()
	first, err := os.ReadFile(a.path("log"))
	if err != nil {
		return err
	}
	if _, err := a.run(n); err != nil {
		return err
	}
	log, err := os.ReadFile(a.path("log"))
	if err != nil {
		return err
	}
	took := map[string][]time.Duration{}
	var order []string
	line := regexp.MustCompile(`msg=stage .*stage=(\S+) took=(\S+)`)
	for _, m := range line.FindAllSubmatch(log[len(first):], -1) {
		d, err := time.ParseDuration(string(m[2]))
		if err != nil {
			return fmt.Errorf("log of the agent: %w", err)
		}
		stage := string(m[1])
		if took[stage] == nil {
			order = append(order, stage)
		}
		took[stage] = append(took[stage], d)
	}
	fmt.Printf("\nms of each stage, %d containers at once\n  %-12s %6s %8s %8s\n", n, "", "n", "p50", "p99")
	for _, stage := range order {
		all := took[stage]
		slices.Sort(all)
		fmt.Printf("  %-12s %6d %8.2f %8.2f\n", stage, len(all), ms(all[len(all)/2]), ms(all[len(all)*99/100]))
	}
	return nil
}
