// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// gone waits until a process that never ran its program has ended.
func gone(t *testing.T, pid string) {
	t.Helper()
	eventually(t, "process "+pid+" of the removed container has ended", func() bool {
		_, err := os.Stat("/proc/" + pid)
		return os.IsNotExist(err)
	})
}

// neverStarted creates tasks with containerd's API, as ctr always starts what it creates, and
// removes them with ctr.
func neverStarted(t *testing.T, ctr *client, namespace string) {
	conn, err := grpc.NewClient("unix://"+containerdSocket,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(),
		"containerd-namespace", namespace), limit)
	defer cancel()
	value, err := proto.Marshal(&options.Options{BinaryName: berth})
	if err != nil {
		t.Fatal(err)
	}
	create := func(id string) string {
		t.Helper()
		ctr.must("container", "create", "--snapshotter", "overlayfs", busybox, id, "sleep", "1000")
		m, err := snapshots.NewSnapshotsClient(conn).Mounts(ctx,
			&snapshots.MountsRequest{Snapshotter: "overlayfs", Key: id})
		if err != nil {
			t.Fatal(err)
		}
		r, err := tasks.NewTasksClient(conn).Create(ctx, &tasks.CreateTaskRequest{
			ContainerID: id, Rootfs: m.Mounts, Options: &anypb.Any{
				TypeUrl: "containerd.runc.v1.Options",
				Value:   value,
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(strings.Fields(ctr.must("task", "ls")), " ")
		if !strings.Contains(got, fmt.Sprintf("%s %d CREATED", id, r.Pid)) {
			t.Errorf("tasks: %s", got)
		}
		return fmt.Sprint(r.Pid)
	}
	// The container of an id that is free can be made again: nothing of the first one is left.
	for range 2 {
		pid := create("n")
		// containerd refuses it by itself.
		ctr.exits(1, []string{"task must be stopped before deletion: created"}, "task", "rm", "n")
		ctr.must("task", "rm", "-f", "n")
		gone(t, pid)
		equal(t, "tasks that are left", ctr.must("task", "ls", "-q"), "")
		ctr.must("container", "rm", "n")
	}
	// One that was killed is a stopped one.
	pid := create("n")
	ctr.must("task", "kill", "-s", "KILL", "n")
	gone(t, pid)
	eventually(t, "the task can be deleted", func() bool {
		return ctr.run("task", "rm", "n").code != 1 || ctr.must("task", "ls", "-q") == ""
	})
	ctr.must("container", "rm", "n")
}
