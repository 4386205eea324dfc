// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"os"
	"reflect"
	"testing"

	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// TestInfo reads the description of a supervisor. After an upgrade in place it names another
// program.
func TestInfo(t *testing.T) {
	n := newNode(t)
	before, err := n.client.Info(n.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if before.PID != n.cmd.Process.Pid || before.Program != "test" || before.Run == "" ||
		before.Version != protocol.MaxVersion ||
		before.MinVersion != protocol.MinVersion || before.MaxVersion != protocol.MaxVersion {
		t.Errorf("found %+v", before)
	}
	if len(before.Handlers) != 2 || before.Handlers[0].Name != handler.NativeName ||
		before.Handlers[1].Name != "runc" {
		t.Fatalf("found handlers %+v; want %s and runc", before.Handlers, handler.NativeName)
	}
	for _, h := range before.Handlers {
		if h.Error != "" || h.Features == nil || h.Features.Linux == nil ||
			h.Features.OCIVersionMax == "" {
			t.Errorf("%s: found %+v; want its features", h.Name, h)
		}
	}
	again, err := n.client.Info(n.ctx())
	if err != nil || !reflect.DeepEqual(again, before) {
		t.Errorf("asked again: found %+v, %v; want %+v", again, err, before)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.upgrade(self); err != nil {
		t.Fatal(err)
	}
	after, err := n.client.Info(n.ctx())
	if err != nil || after.Run == before.Run || after.PID != before.PID {
		t.Errorf("after an upgrade: found %+v, %v; want the same process and another run", after, err)
	}
}
