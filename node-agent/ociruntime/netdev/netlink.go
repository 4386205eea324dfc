// SPDX-License-Identifier: Apache-2.0

package netdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// conn is a routing socket (rtnetlink(7)). It stays in the network namespace that it was made in.
type conn struct {
	fd  int
	seq uint32
}

func dial() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("netlink: bind: %w", err)
	}
	return &conn{fd: fd}, nil
}

// dialIn opens a socket in another network namespace.
func dialIn(ns int) (c *conn, err error) {
	runtime.LockOSThread()
	own, err := ownNamespace()
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer unix.Close(own)
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("setns: %w", err)
	}
	c, err = dial()
	if back := unix.Setns(own, unix.CLONE_NEWNET); back != nil {
		// The thread stays locked and so ends with its goroutine: no other code may use it.
		if c != nil {
			c.close()
		}
		return nil, errors.Join(err, fmt.Errorf("setns back: %w", back))
	}
	runtime.UnlockOSThread()
	return c, err
}

// ownNamespace opens the network namespace of the calling thread.
func ownNamespace() (int, error) {
	const file = "/proc/thread-self/ns/net"
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: file, Err: err}
	}
	return fd, nil
}

func (c *conn) close() { unix.Close(c.fd) }

// maxMessages is the greatest size of a datagram of the kernel (NLMSG_GOODSIZE is at most 32 KiB
// since Linux 4.4).
const maxMessages = 64 << 10

// request sends a message and passes each answer to each, until the kernel has sent the last one.
// An error of the kernel's is its errno.
func (c *conn) request(kind, flags uint16, body []byte,
	each func(syscall.NetlinkMessage) error,
) error {
	c.seq++
	message := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(body))
	binary.NativeEndian.PutUint32(message, uint32(unix.NLMSG_HDRLEN+len(body)))
	binary.NativeEndian.PutUint16(message[4:], kind)
	binary.NativeEndian.PutUint16(message[6:], flags|unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(message[8:], c.seq)
	err := unix.Sendto(c.fd, append(message, body...), 0,
		&unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err != nil {
		return fmt.Errorf("netlink: sendto: %w", err)
	}
	buffer := make([]byte, maxMessages)
	for {
		n, _, err := unix.Recvfrom(c.fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("netlink: recvfrom: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return fmt.Errorf("netlink: found a malformed message: %w", err)
		}
		for _, m := range messages {
			if m.Header.Seq != c.seq {
				continue
			}
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR: // also the acknowledgement, with 0
				if len(m.Data) < 4 {
					return errors.New("netlink: found a short acknowledgement")
				}
				if errno := int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
					return unix.Errno(-errno)
				}
				return nil
			}
			if each != nil {
				if err := each(m); err != nil {
					return err
				}
			}
		}
	}
}

// attribute returns a struct rtattr with its payload, padded.
func attribute(kind uint16, payload []byte) []byte {
	length := unix.SizeofRtAttr + len(payload)
	a := make([]byte, (length+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1))
	binary.NativeEndian.PutUint16(a, uint16(length))
	binary.NativeEndian.PutUint16(a[2:], kind)
	copy(a[unix.SizeofRtAttr:], payload)
	return a
}

func number(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func cString(s string) []byte { return append([]byte(s), 0) }

// linkMessage returns a struct ifinfomsg: change says which of flags count.
func linkMessage(index int32, flags, change uint32) []byte {
	m := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(m[4:], uint32(index))
	binary.NativeEndian.PutUint32(m[8:], flags)
	binary.NativeEndian.PutUint32(m[12:], change)
	return m
}
