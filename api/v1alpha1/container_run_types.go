// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Bounds of RestartBackOff and Logging, and what an absent field means.
const (
	// DefaultBackOffInitialSeconds and DefaultBackOffMaxSeconds are the kubelet's.
	DefaultBackOffInitialSeconds = 10
	DefaultBackOffMaxSeconds     = 300
	// MaxBackOffSeconds is a day.
	MaxBackOffSeconds = 86400
	// MinLogSize is room for one entry of the log with its header: an entry has up to 16 KiB of
	// text, and is in one file.
	MinLogSize = 32 << 10
	// MinLogFiles counts the current file and the one before: rotation loses older lines.
	MinLogFiles = 2
	// MaxLogFiles bounds the renames of one rotation.
	MaxLogFiles = 1000
)

// RestartBackOff is the wait before each start but the first: none after the first end, then
// initialSeconds, doubled each time, up to maxSeconds. It starts afresh after 10 min of running.
// Pulls of an image that fail have the kubelet's times, whatever it says.
type RestartBackOff struct {
	// initialSeconds is the first wait; absent, 10, or maxSeconds if that is less.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	InitialSeconds *int32 `json:"initialSeconds,omitempty"`
	// maxSeconds is the longest wait; absent, 300.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	MaxSeconds *int32 `json:"maxSeconds,omitempty"`
}

// Logging limits the log files of each of the last two runs of a container. What they hold at most
// is maxSize times maxFiles for each run; older lines are lost.
type Logging struct {
	// maxSize is the size at which a log file is rotated, such as 1Mi; at least 32Ki. Absent, the
	// node's: 10Mi, as the kubelet's containerLogMaxSize. Files that were rotated before a change
	// keep their size.
	// +optional
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 32768 : isQuantity(self) && quantity(self).compareTo(quantity('32Ki')) >= 0",message="maxSize is a quantity of at least 32Ki, since a file has to hold the longest entry: write 1Mi or 10M"
	MaxSize *resource.Quantity `json:"maxSize,omitempty"`
	// maxFiles is the number of log files that are kept, including the current one; at least 2.
	// Absent, the node's: 5, as the kubelet's containerLogMaxFiles. A lower number removes the
	// oldest files at once.
	// +optional
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=1000
	MaxFiles *int32 `json:"maxFiles,omitempty"`
}

// Device is a device of the node that appears in a container: one at a path, or one that the node's
// CDI specs name.
//
// +kubebuilder:validation:XValidation:rule="has(self.path) != has(self.cdi)",message="a device has one of path and cdi: write path: /dev/NAME, or cdi: VENDOR/CLASS=NAME"
// +kubebuilder:validation:XValidation:rule="!has(self.cdi) || (!has(self.containerPath) && !has(self.permissions))",message="the CDI spec of the node has the paths and permissions of a device by cdi: remove containerPath and permissions"
type Device struct {
	// path of the device on the node, below /dev; a link there is followed.
	// +optional
	// +kubebuilder:validation:MinLength=6
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:XValidation:rule="self.startsWith('/dev/')",message="path of a device must be below /dev: write /dev/NAME"
	Path string `json:"path,omitempty"`
	// cdi is the name of a device in the CDI specs of the node (Container Device Interface), such as
	// nvidia.com/gpu=0. The spec says what the container gets: device nodes, mounts, variables and
	// hooks, which run on the node as root.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?=[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?$')",message="cdi is the name of a device of CDI: write VENDOR/CLASS=NAME, such as nvidia.com/gpu=0"
	CDI string `json:"cdi,omitempty"`
	// containerPath of the device in the container, below /dev; absent, path.
	// +optional
	// +kubebuilder:validation:MinLength=6
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:XValidation:rule="self.startsWith('/dev/')",message="containerPath of a device must be below /dev: write /dev/NAME"
	ContainerPath string `json:"containerPath,omitempty"`
	// permissions are letters of r (read), w (write) and m (mknod, which every container may); absent,
	// rwm.
	// +optional
	// +kubebuilder:validation:Enum=r;w;m;rw;rm;wm;rwm
	Permissions string `json:"permissions,omitempty"`
}

// Ulimit is a soft and a hard limit of a resource, in the units of getrlimit(2): bytes, seconds,
// processes or open files.
//
// +kubebuilder:validation:XValidation:rule="self.hard == -1 || self.soft != -1 && self.soft <= self.hard",message="soft may be at most hard, where -1 is no limit: lower soft or raise hard"
type Ulimit struct {
	// name of the resource, as docker and podman have it.
	// +kubebuilder:validation:Enum=as;core;cpu;data;fsize;locks;memlock;msgqueue;nice;nofile;nproc;rss;rtprio;rttime;sigpending;stack
	Name string `json:"name"`
	// soft is the limit in force, which a process may raise up to hard; -1 is no limit.
	// +kubebuilder:validation:Minimum=-1
	Soft int64 `json:"soft"`
	// hard is the limit that only a privileged process may raise; -1 is no limit.
	// +kubebuilder:validation:Minimum=-1
	Hard int64 `json:"hard"`
}

// SecurityContext holds the fields of a Pod's container, and those of a Pod that a container can
// have alone.
type SecurityContext struct {
	corev1.SecurityContext `json:",inline"`

	// supplementalGroups are groups of the process besides its primary one and those that the
	// image's /etc/group gives its user.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:Minimum=0
	// +kubebuilder:validation:items:Maximum=2147483647
	SupplementalGroups []int64 `json:"supplementalGroups,omitempty"`

	// fsGroup is a group of the process that also owns its volumes of all kinds but hostPath: their
	// files may be read and written by it, and new ones belong to it.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	FSGroup *int64 `json:"fsGroup,omitempty"`

	// fsGroupChangePolicy Always, the default, changes all files of a volume at each start;
	// OnRootMismatch none if the directory of the volume has the group and its permissions.
	// +optional
	// +kubebuilder:validation:Enum=Always;OnRootMismatch
	FSGroupChangePolicy corev1.PodFSGroupChangePolicy `json:"fsGroupChangePolicy,omitempty"`

	// sysctls are parameters of the kernel in the container's own network and IPC namespaces. A
	// cluster allows those that the kubelet calls safe.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(s, s.name in ['kernel.shm_rmid_forced', 'net.ipv4.ip_local_port_range', 'net.ipv4.ip_local_reserved_ports', 'net.ipv4.ip_unprivileged_port_start', 'net.ipv4.ping_group_range', 'net.ipv4.tcp_fin_timeout', 'net.ipv4.tcp_keepalive_intvl', 'net.ipv4.tcp_keepalive_probes', 'net.ipv4.tcp_keepalive_time', 'net.ipv4.tcp_rmem', 'net.ipv4.tcp_syncookies', 'net.ipv4.tcp_wmem'])",message="sysctls of a cluster may be kernel.shm_rmid_forced and, of net.ipv4, ip_local_port_range, ip_local_reserved_ports, ip_unprivileged_port_start, ping_group_range, tcp_fin_timeout, tcp_keepalive_intvl, tcp_keepalive_probes, tcp_keepalive_time, tcp_rmem, tcp_syncookies and tcp_wmem: remove the others"
	Sysctls []corev1.Sysctl `json:"sysctls,omitempty"`
}

// Dependency is a Container that another one needs at its start.
type Dependency struct {
	// name of the Container.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// condition that the Container must meet: Started (its process runs, or has ended for good) or
	// Completed (its process has ended for good, with exit code 0).
	// +kubebuilder:validation:Enum=Started;Completed
	Condition DependencyCondition `json:"condition"`
}

// DependencyCondition is the state that a dependency must be in.
type DependencyCondition string

const (
	// DependencyStarted asks for a process that runs, or has ended for good.
	DependencyStarted DependencyCondition = "Started"
	// DependencyCompleted asks for a process that has ended for good, with exit code 0.
	DependencyCompleted DependencyCondition = "Completed"
)
