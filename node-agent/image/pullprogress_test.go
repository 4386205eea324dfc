// SPDX-License-Identifier: Apache-2.0

package image

import (
	"testing"

	"github.com/berth-run/berth/internal/leaktest"
)

func TestPullProgress(t *testing.T) {
	leaktest.Check(t)
	var p PullProgress
	for _, step := range []struct {
		note Progress
		want string
	}{
		{Progress{Stage: StageRead, Done: 5e6, Total: 20e6}, "read 5.0 of 20.0 MB, 25% of the archive"},
		{
			Progress{Stage: StageDownload, Layer: "a", Done: 10e6, Total: 30e6, Layers: 2, Size: 40e6},
			"downloaded 10.0 of 40.0 MB, 25%, unpacked 0.0 of 40.0 MB, 0% (0 of 2 layers)",
		},
		{
			Progress{Stage: StageDownload, Layer: "b", Done: 10e6, Total: 10e6, Layers: 2, Size: 40e6},
			"downloaded 20.0 of 40.0 MB, 50%, unpacked 0.0 of 40.0 MB, 0% (0 of 2 layers)",
		},
		{
			Progress{Stage: StageUnpack, Layer: "b", Done: 5e6, Total: 10e6, Layers: 2, Size: 40e6},
			"downloaded 20.0 of 40.0 MB, 50%, unpacked 5.0 of 40.0 MB, 12% (0 of 2 layers)",
		},
		{
			Progress{Stage: StageDone, Layer: "b", Done: 10e6, Total: 10e6, Layers: 2, Size: 40e6},
			"downloaded 20.0 of 40.0 MB, 50%, unpacked 10.0 of 40.0 MB, 25% (1 of 2 layers)",
		},
	} {
		step.note.Ref = "x"
		p.Note(step.note)
		if got := p.Text("x"); got != step.want {
			t.Errorf("found %q; want %q", got, step.want)
		}
	}
	if p.Forget("x"); p.Text("x") != "" {
		t.Error("found something of a pull that has ended")
	}
}
