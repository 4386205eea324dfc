// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"fmt"
	"slices"
)

// verdict returns the code for one number: a return, or comparisons of arguments.
func (c *compiler) verdict(g *generator, rules []numbered) label {
	var root level
	for i := range rules {
		if len(rules[i].conditions) == 0 {
			return g.ret(rules[i].rule.action)
		}
		c.insert(&root, rules[i])
	}
	return g.level(root, g.ret(c.fallback), rules[0].wide)
}

// level is the alternatives for one condition, in the order in which they are tried.
type level []*node

// node is a condition, and what follows where it holds: an action, or further conditions.
type node struct {
	condition condition
	final     bool
	action    action
	line      int
	next      level
}

// insert puts a rule where its conditions belong in the tree. See Compile for the order.
func (c *compiler) insert(l *level, n numbered) {
	for i, cond := range n.conditions {
		found, at := l.find(cond, n.wide)
		if found == nil {
			found = &node{condition: cond}
			*l = slices.Insert(*l, at, found)
		} else if found.final {
			switch {
			case found.action == n.rule.action:
			case i == len(n.conditions)-1:
				c.conflict(n.rule.line, found.line)
			default:
				c.warnings = append(c.warnings, Warning{
					fmt.Sprintf("syscalls[%d]", n.rule.line),
					fmt.Sprintf("never matches: syscalls[%d] decides with fewer conditions", found.line),
				})
			}
			return
		}
		if i < len(n.conditions)-1 {
			l = &found.next
			continue
		}
		if other := differs(found.next, n.rule.action); other != nil {
			c.conflict(n.rule.line, other.line)
			return
		}
		found.final, found.action, found.line, found.next = true, n.rule.action, n.rule.line, nil
	}
}

func (c *compiler) conflict(line, earlier int) {
	err := &FieldError{
		fmt.Sprintf("syscalls[%d]", line),
		fmt.Sprintf("conditions that also hold wherever those of syscalls[%d] do, with another action",
			earlier),
		"one action for the same conditions",
	}
	for _, other := range c.faults {
		if other.Error() == err.Error() {
			return // for another architecture or name
		}
	}
	c.faults = append(c.faults, err)
}

// differs returns a node below l that ends in another action, or nil.
func differs(l level, a action) *node {
	for _, n := range l {
		if n.final && n.action != a {
			return n
		}
		if other := differs(n.next, a); other != nil {
			return other
		}
	}
	return nil
}

// find returns the node for a condition, or where to put it.
func (l level) find(c condition, wide bool) (*node, int) {
	at, kin := len(l), false
	for i, n := range l {
		if n.condition == c {
			return n, i
		}
		switch akin := wide && alike(n.condition, c); {
		case akin && !kin:
			// What has the high half in common stays together.
			kin = true
			at = i + 1
			if before(c, n.condition, wide) {
				at = i
			}
		case akin && at == i && !before(c, n.condition, wide):
			at = i + 1
		case !kin && at == len(l) && before(c, n.condition, wide):
			at = i
		}
	}
	return nil, at
}

// alike reports whether libseccomp tests both conditions' high halves at once.
func alike(a, b condition) bool {
	return a.arg == b.arg && rank(a.op) == rank(b.op) && a.value>>32 == b.value>>32 &&
		a.mask>>32 == b.mask>>32 &&
		(a.mask == ^uint64(0)) == (b.mask == ^uint64(0))
}

// before reports whether condition a, the newer one, has to be tried before b.
func before(a, b condition, wide bool) bool {
	if a.arg != b.arg {
		return a.arg > b.arg
	}
	if ra, rb := rank(a.op), rank(b.op); ra != rb {
		return ra > rb
	}
	if wide && a.value>>32 == b.value>>32 && !alike(a, b) {
		return false
	}
	if a.op == opLT || a.op == opLE {
		return a.value < b.value
	}
	return a.value > b.value
}

// rank orders the conditions of a call: those with a higher rank are tried first.
func rank(op operator) int {
	switch op {
	case opMasked, opNE:
		return 3
	case opLT, opLE:
		return 2
	}
	return 1
}
