// SPDX-License-Identifier: Apache-2.0

// Package supervisor is the one long-lived parent of every container process on a node. Package
// protocol has the client that talks to it.
//
// The supervisor (Run) creates containers through a handler.Handler, keeps their standard output in
// rotated files of the CRI log format, reaps them, and writes each one's state to disk before it
// publishes it: a start before the program can run, an exit before the process is reaped. It knows
// containers and nothing else: not what a Container of Kubernetes is, not images, restarts or
// probes. It must stay small, because every container on the node pays for it if it dies, and it
// imports no Kubernetes module.
//
// # What survives what
//
// The agent may die at any time: nothing here depends on its connections, and an operation once
// accepted runs to its end even when the client that asked for it has gone.
//
// The supervisor may die too (SIGTERM ends it in the same way, only tidily): containers live on,
// because their standard output is a pipe that they themselves hold open for reading as well, so a
// write meets a full pipe at worst, never SIGPIPE. The next supervisor reads the records and takes
// the containers up again through pidfds, and their pipes.
//
// The agent holds duplicates of the pidfds and of the reading ends of the pipes (protocol.Holder),
// and the supervisor that it starts next inherits them. So the exit code of a container that ends
// while no supervisor runs is known (PIDFD_GET_INFO, Linux 6.15; unknown on older kernels unless
// the process is still a zombie), and what it wrote before is in its pipe. Output that has left the
// pipe and is not in the log yet stands in a spool, so that a kill loses no line and writes none
// twice.
//
// protocol.Client.Upgrade has a supervisor continue as another program in its own process, so that
// containers remain its children.
//
// If the agent and the supervisor are killed at the same moment, the service manager holds the
// descriptors, where the agent is its service (package fdstore). Elsewhere nobody does: containers
// that end before there is another supervisor lose what is in their pipes, and their exit codes are
// unknown.
package supervisor
