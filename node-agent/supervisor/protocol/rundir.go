// SPDX-License-Identifier: Apache-2.0

package protocol

import "path/filepath"

// A run directory holds, beside the supervisor's own directory, the socket and the state of each
// runtime. Each is in a directory of its own, so that no container id is the name of something
// else.
const (
	// NativeDir is the --root of the native runtime: `berth --root RUN-DIR/containers list`.
	NativeDir = "containers"
	// HandlersDir holds the state of other runtimes, in a directory of each handler's name.
	HandlersDir = "handlers"

	socketName = "supervisor.sock"
)

// Socket returns the path of the socket that the supervisor of a run directory listens on, unless
// it was started with another.
func Socket(runDir string) string { return filepath.Join(runDir, socketName) }

// NativeRoot returns the --root of the native runtime.
func NativeRoot(runDir string) string { return filepath.Join(runDir, NativeDir) }

// HandlerRoot returns the --root of another runtime, by the name of its handler.
func HandlerRoot(runDir, name string) string {
	return filepath.Join(runDir, HandlersDir, name, "root") // as handler.External has it
}
