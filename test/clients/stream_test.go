// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The channels of the protocol v4.channel.k8s.io: the first byte of each message.
const (
	stdinChannel = iota
	stdoutChannel
	stderrChannel
	errorChannel
	resizeChannel
)

// stream is a connection as of kubectl exec, attach and port-forward, to the server whose address
// CRI gives.
type stream struct {
	t    *testing.T
	conn *websocket.Conn
	done chan struct{}

	mu   sync.Mutex
	seen map[byte]string
}

func newStream(t *testing.T, url string) *stream {
	t.Helper()
	config, err := websocket.NewConfig(strings.Replace(url, "http://", "ws://", 1),
		"http://127.0.0.1/")
	if err != nil {
		t.Fatal(err)
	}
	config.Protocol = []string{"v4.channel.k8s.io"}
	conn, err := websocket.DialConfig(config)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	conn.PayloadType = websocket.BinaryFrame
	s := &stream{t: t, conn: conn, done: make(chan struct{}), seen: map[byte]string{}}
	t.Cleanup(func() { conn.Close() })
	go func() {
		defer close(s.done)
		for {
			var message []byte
			if websocket.Message.Receive(conn, &message) != nil {
				return
			}
			if len(message) > 0 {
				s.mu.Lock()
				s.seen[message[0]] += string(message[1:])
				s.mu.Unlock()
			}
		}
	}()
	return s
}

func (s *stream) send(channel byte, text string) {
	s.t.Helper()
	if err := websocket.Message.Send(s.conn, append([]byte{channel}, text...)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stream) text(channel byte) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[channel]
}

// result waits for the end and returns the exit code of the command.
func (s *stream) result() string {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(limit):
		s.t.Fatalf("the stream does not end; so far: %q", s.seen)
	}
	var status struct {
		Status  string
		Details struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal([]byte(s.text(errorChannel)), &status); err != nil {
		s.t.Fatalf("status %q: %v", s.text(errorChannel), err)
	}
	for _, c := range status.Details.Causes {
		if c.Reason == "ExitCode" {
			return c.Message
		}
	}
	return status.Status
}

// testStreams is for a pod whose container serves a page on port 80 of the pod's own network, as
// serve does.
func testStreams(t *testing.T, p *pod, id, page string) {
	t.Run("exec", func(t *testing.T) {
		r, err := p.service.Exec(p.ctx, &cri.ExecRequest{ContainerId: id, Cmd: []string{
			"sh", "-c",
			"read line; echo out $line; echo err >&2; exit 5",
		}, Stdin: true, Stdout: true, Stderr: true})
		p.must(err)
		s := newStream(t, r.Url)
		s.send(stdinChannel, "fed\n")
		equal(t, "exit code", s.result(), "5")
		equal(t, "standard output", s.text(stdoutChannel), "out fed\n")
		equal(t, "standard error", s.text(stderrChannel), "err\n")
		r, err = p.service.Exec(p.ctx, &cri.ExecRequest{
			ContainerId: id, Cmd: []string{"true"},
			Stdout: true,
		})
		p.must(err)
		equal(t, "status of one that succeeds", newStream(t, r.Url).result(), "Success")
	})
	t.Run("exec with a terminal", func(t *testing.T) {
		r, err := p.service.Exec(p.ctx, &cri.ExecRequest{
			ContainerId: id, Cmd: []string{"sh"}, Tty: true,
			Stdin: true, Stdout: true,
		})
		p.must(err)
		s := newStream(t, r.Url)
		for _, size := range [][2]int{{97, 31}, {120, 40}} {
			s.send(resizeChannel, fmt.Sprintf(`{"Width": %d, "Height": %d}`, size[0], size[1]))
			eventually(t, "the window has its size", func() bool {
				s.send(stdinChannel, "echo size: $(stty size)\n")
				return strings.Contains(s.text(stdoutChannel), fmt.Sprintf("size: %d %d", size[1], size[0]))
			})
		}
		s.send(stdinChannel, "tty; exit 6\n")
		equal(t, "exit code", s.result(), "6")
		if !strings.Contains(s.text(stdoutChannel), "/dev/pts/") {
			t.Errorf("the terminal shows %q", s.text(stdoutChannel))
		}
	})
	t.Run("attach", func(t *testing.T) {
		shell := p.start("attached", []string{"sh"}, func(c *cri.ContainerConfig) {
			c.Stdin, c.Tty = true, true
		})
		r, err := p.service.Attach(p.ctx, &cri.AttachRequest{
			ContainerId: shell, Stdin: true,
			Stdout: true, Tty: true,
		})
		p.must(err)
		s := newStream(t, r.Url)
		s.send(stdinChannel, "echo at''tached to $HOSTNAME $(cat /proc/1/comm)\n")
		eventually(t, "the container's first process answers", func() bool {
			return strings.Contains(s.text(stdoutChannel), "attached to a-pod sh")
		})
		s.send(stdinChannel, "exit 4\n")
		equal(t, "exit code", p.ended(shell).ExitCode, 4)
	})
	t.Run("port-forward", func(t *testing.T) {
		r, err := p.service.PortForward(p.ctx, &cri.PortForwardRequest{
			PodSandboxId: p.id,
			Port:         []int32{80},
		})
		p.must(err)
		s := newStream(t, r.Url+"?ports=80")
		s.send(0, "GET / HTTP/1.0\r\n\r\n")
		eventually(t, "the page comes", func() bool { return strings.Contains(s.text(0), page) })
		// Both channels begin with the number of the port.
		equal(t, "port", binary.LittleEndian.Uint16([]byte(s.text(0))), 80)
	})
}

// ip returns the address of a pod.
func (p *pod) ip() string {
	p.t.Helper()
	s, err := p.service.PodSandboxStatus(p.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
	p.must(err)
	return s.Status.Network.GetIp()
}
