// SPDX-License-Identifier: Apache-2.0

// Package fdstore keeps descriptors with systemd, across the death of this process: a service with
// FileDescriptorStoreMax= gets them back when it is started again (sd_notify(3), FDSTORE;
// sd_listen_fds(3)). It knows names and descriptors, and nothing of containers.
package fdstore

import (
	"fmt"
	"net"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// Store is the descriptor store of this process's service.
type Store struct {
	conn    *net.UnixConn
	manager *net.UnixAddr
}

// timeout is the time that systemd may take to receive a message.
const timeout = 5 * time.Second

// Open returns the store of this process. It returns nil if this process is no service of one that
// takes messages.
func Open() (*Store, error) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil, nil
	}
	// Not connected, as WriteMsgUnix wants it.
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("descriptor store: %w", err)
	}
	return &Store{conn, &net.UnixAddr{Name: path, Net: "unixgram"}}, nil
}

// Add stores a duplicate of fd. A descriptor that is there already, under any name, is not stored
// again.
func (s *Store) Add(name string, fd int) error {
	// FDPOLL=0: systemd is not to drop a pipe whose writers, or a pidfd whose process, have ended.
	return s.send("FDSTORE=1\nFDNAME="+name+"\nFDPOLL=0", unix.UnixRights(fd))
}

// Remove closes the stored descriptors of that name; that there are none is no error.
func (s *Store) Remove(name string) error {
	return s.send("FDSTOREREMOVE=1\nFDNAME="+name, nil)
}

func (s *Store) send(message string, rights []byte) error {
	_ = s.conn.SetWriteDeadline(time.Now().Add(timeout))
	if _, _, err := s.conn.WriteMsgUnix([]byte(message), rights, s.manager); err != nil {
		return fmt.Errorf("descriptor store: %w", err)
	}
	return nil
}

// Take returns the descriptors that the service manager had stored when it started this process, by
// their names. Children of this process do not learn of them.
func Take() map[string]*os.File {
	files := map[string]*os.File{}
	for _, f := range activation.Files(true) {
		if _, twice := files[f.Name()]; twice {
			f.Close()
			continue
		}
		files[f.Name()] = f
	}
	return files
}
