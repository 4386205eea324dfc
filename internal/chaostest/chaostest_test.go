// SPDX-License-Identifier: Apache-2.0

package chaostest

import "testing"

func TestCompare(t *testing.T) {
	p := Program{Slow: 2, Burst: 2, Code: 7}
	once := Notes{Starts: 1}
	for name, c := range map[string]struct {
		notes Notes
		log   string
		code  int
		want  Losses
	}{
		"complete":        {once, "0\n1\n2\n3\n4", 7, Losses{}},
		"never started":   {Notes{}, "", 0, Losses{Containers: 1}},
		"started twice":   {Notes{Starts: 2}, "0\n1\n2\n3\n4", 7, Losses{StartedTwice: 1}},
		"other code":      {once, "0\n1\n2\n3\n4", 0, Losses{Codes: 1}},
		"line lost":       {once, "0\n1\n3\n4", 7, Losses{Lines: 1}},
		"end lost":        {once, "0\n1\n2\n", 7, Losses{Lines: 2}},
		"line doubled":    {once, "0\n1\n1\n2\n3\n4", 7, Losses{Doubled: 1}},
		"out of order":    {once, "0\n2\n1\n3\n4", 7, Losses{Disorder: 1}},
		"two lines mixed": {once, "0\n12\n3\n4", 7, Losses{Lines: 2, Disorder: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := p.Compare(c.notes, c.log, c.code); got != c.want {
				t.Errorf("found %+v; want %+v", got, c.want)
			}
		})
	}
}
