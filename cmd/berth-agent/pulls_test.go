// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/berth-run/berth/node-agent/image"
)

func TestPulls(t *testing.T) {
	p := &pulls{byRef: map[string]*pull{}}
	for _, step := range []struct {
		note image.Progress
		want string
	}{
		{image.Progress{Stage: image.StageRead, Done: 5e6, Total: 20e6}, "read 5.0 of 20.0 MB, 25% of the archive"},
		{image.Progress{Stage: image.StageDownload, Layer: "a", Done: 10e6, Total: 30e6, Layers: 2, Size: 40e6}, "downloaded 10.0 of 40.0 MB, 25%, unpacked 0.0 of 40.0 MB, 0% (0 of 2 layers)"},
		{image.Progress{Stage: image.StageDownload, Layer: "b", Done: 10e6, Total: 10e6, Layers: 2, Size: 40e6}, "downloaded 20.0 of 40.0 MB, 50%, unpacked 0.0 of 40.0 MB, 0% (0 of 2 layers)"},
		{image.Progress{Stage: image.StageUnpack, Layer: "b", Done: 5e6, Total: 10e6, Layers: 2, Size: 40e6}, "downloaded 20.0 of 40.0 MB, 50%, unpacked 5.0 of 40.0 MB, 12% (0 of 2 layers)"},
		{image.Progress{Stage: image.StageDone, Layer: "b", Done: 10e6, Total: 10e6, Layers: 2, Size: 40e6}, "downloaded 20.0 of 40.0 MB, 50%, unpacked 10.0 of 40.0 MB, 25% (1 of 2 layers)"},
	} {
		step.note.Ref = "x"
		p.note(step.note)
		if got := p.text("x"); got != step.want {
			t.Errorf("found %q; want %q", got, step.want)
		}
	}
	if p.forget("x"); p.text("x") != "" {
		t.Error("found something of a pull that has ended")
	}
}
