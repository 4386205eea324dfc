// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/procfs"
)

// pidfdGetInfo is PIDFD_GET_INFO for the first size of struct pidfd_info, 64 bytes (linux/pidfd.h:
// _IOWR(0xFF, 11, struct pidfd_info)). The number carries the size, and kernels take any size from
// that one on; x/sys has the number of the newest size, whose extra fields we have no use for.
const pidfdGetInfo = 0xC0000000 | unix.PIDFD_INFO_SIZE_VER0<<16 | 0xFF<<8 | 11

// errNoExit is returned when the kernel has no exit status of a process that is not our child.
var errNoExit = errors.New(
	"the kernel does not tell the exit code of a process whose parent has died (that needs Linux 6.15)")

// openProcess returns a pidfd of the process with that pid and start time, or -1 if there is none.
// An error says that it is not known whether there is one: descriptors or memory have run out.
func openProcess(pid int, startTime uint64) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, shortage(err)
	}
	// Looked at after the pidfd was opened: if the process still has its start time, the pidfd is
	// that process's.
	if st, err := procfs.ReadStat(pid); err != nil || st.StartTime != startTime {
		unix.Close(fd)
		return -1, shortage(err)
	}
	return fd, nil
}

// mayLive reports whether a process that is not our child lives, or it is not known that it has
// ended. The pidfd is -1 if there is none, and the start time 0 if it could not be read.
func mayLive(pidfd, pid int, startTime uint64) bool {
	if pidfd < 0 {
		fd, err := openProcess(pid, startTime)
		if err != nil {
			return true
		}
		if fd < 0 {
			return startTime == 0 && !errors.Is(unix.Kill(pid, 0), unix.ESRCH)
		}
		defer unix.Close(fd)
		pidfd = fd
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return err != nil || n == 0
		}
	}
}

// shortage returns an error that says that descriptors or memory have run out, and nil for others.
func shortage(err error) error {
	for _, errno := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM} {
		if errors.Is(err, errno) {
			return err
		}
	}
	return nil
}

// exitStatusOfNonChild returns the wait status of a process that is not, or no longer, our child,
// once its pidfd polls as readable.
//
// There are two sources, one before and one after its parent (pid 1, commonly) has reaped it. A
// zombie shows its wait status as exit_code in /proc/PID/stat (proc_pid_stat(5), field 52). For a
// reaped one the pidfd keeps it since Linux 6.15 (PIDFD_INFO_EXIT). The pidfd is asked first and
// again after stat, since it can be reaped between the two.
func exitStatusOfNonChild(pidfd, pid int, startTime uint64) (unix.WaitStatus, error) {
	for try := 0; ; try++ {
		ws, err := pidfdExit(pidfd)
		if err == nil {
			return ws, nil
		}
		st, serr := procfs.ReadStat(pid)
		if serr == nil && st.StartTime == startTime && st.State == 'Z' {
			return st.Exit, nil
		}
		if try == 1 {
			return 0, errNoExit
		}
		// Not a zombie any more, or not yet seen as one by stat: a moment decides it.
		time.Sleep(time.Millisecond)
	}
}

// pidfdExit asks a pidfd for the wait status of its process, which must have been reaped.
func pidfdExit(pidfd int) (unix.WaitStatus, error) {
	if pidfd < 0 {
		return 0, errNoExit
	}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), pidfdGetInfo,
		uintptr(unsafe.Pointer(&info)))
	if errno != 0 {
		return 0, errno
	}
	if info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return 0, errNoExit
	}
	return unix.WaitStatus(info.Exit_code), nil
}
