// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// noting returns a hook that notes its name in a file, with its environment's A and its working
// directory, and saves the state that it gets.
func (w *world) noting(name string) []specs.Hook {
	return []specs.Hook{{
		Path: "/bin/sh", Args: []string{"hook", "-c", `cat > ` + filepath.Join(w.dir, name+".json") +
			`; echo ` + name + ` "$A" "${PATH-none}" >> ` + filepath.Join(w.dir, "hooks")},
		Env: []string{"A=b"},
	}}
}

func (w *world) noted() string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.dir, "hooks"))
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	// dash's own default, not passed on
	return strings.ReplaceAll(string(data),
		" b /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", " b none")
}

func failing() []specs.Hook {
	return []specs.Hook{{Path: "/bin/sh", Args: []string{
		"sh", "-c",
		"echo some words; echo other words >&2; exit 3",
	}}}
}

func TestHooks(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("exit 0")
	spec.Annotations = map[string]string{"k": "v"}
	spec.Hooks = &specs.Hooks{
		Prestart: w.noting("prestart"), CreateRuntime: w.noting("createRuntime"), Poststart: w.noting("poststart"), Poststop: w.noting("poststop"), //nolint:staticcheck // deprecated, not gone
	}
	s := w.create(spec)
	state := func(hook string) (st specs.State) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(w.dir, hook+".json"))
		w.must(err)
		w.must(json.Unmarshal(data, &st))
		return st
	}
	if got := w.noted(); got != "prestart b none\ncreateRuntime b none\n" {
		t.Errorf("after create: %q", got)
	}
	for _, hook := range []string{"prestart", "createRuntime"} {
		if st := state(hook); st.Pid != s.PID || st.ID != w.id || st.Status != specs.StateCreated ||
			st.Bundle != w.bundle() || st.Annotations["k"] != "v" || st.Version != "1.3.0" {
			t.Errorf("%s: state %+v", hook, st)
		}
	}
	w.must(w.rt.Start(background, w.id))
	if got := w.noted(); !strings.HasSuffix(got, "\npoststart b none\n") {
		t.Errorf("after start: %q", got)
	}
	if st := state("poststart"); st.Status != specs.StateRunning || st.Pid != s.PID {
		t.Errorf("poststart: state %+v", st)
	}
	w.must(w.rt.Delete(background, w.id, true))
	if got := w.noted(); !strings.HasSuffix(got, "\npoststop b none\n") ||
		strings.Count(got, "\n") != 4 {
		t.Errorf("after delete: %q", got)
	}
	if st := state("poststop"); st.Status != specs.StateStopped || st.Pid != 0 {
		t.Errorf("poststop: state %+v", st)
	}
}

// TestEnvironmentOfHooks: hooks outside of the container that say nothing have the runtime's
// environment, those that say something have that alone. A startContainer hook, whose program is
// the container's, has nothing of the runtime's.
func TestEnvironmentOfHooks(t *testing.T) {
	t.Setenv("BERTH_TEST_HOOK", "of the runtime")
	w := newWorld(t)
	file := filepath.Join(w.dir, "environment")
	say := func(kind string, env ...string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", `echo "` + kind +
			` ${BERTH_TEST_HOOK-none}" >> ` + file}, Env: env}}
	}
	spec := w.sh("true")
	spec.Process.Env = []string{"BERTH_TEST_HOOK=of the container"}
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: w.dir, Type: "bind", Source: w.dir,
		Options: []string{"bind"},
	})
	for _, c := range []struct{ env, outside, inside string }{{
		"", "of the runtime",
		"of the container",
	}, {"A=b", "none", "none"}} {
		w.must(os.WriteFile(file, nil, 0o644))
		var env []string
		if c.env != "" {
			env = []string{c.env}
		}
		spec.Hooks = &specs.Hooks{
			Prestart: say("prestart", env...), CreateRuntime: say("createRuntime", env...), CreateContainer: say("createContainer", env...), //nolint:staticcheck // deprecated, not gone
			StartContainer: say("startContainer", env...), Poststart: say("poststart", env...),
			Poststop: say("poststop", env...),
		}
		w.create(spec)
		w.must(w.rt.Start(background, w.id))
		w.must(w.rt.Delete(background, w.id, true))
		data, err := os.ReadFile(file)
		w.must(err)
		want := "prestart OUT\ncreateRuntime OUT\ncreateContainer OUT\nstartContainer IN\npoststart OUT\npoststop OUT\n"
		if want = strings.NewReplacer("OUT", c.outside, "IN",
			c.inside).Replace(want); string(data) != want {
			t.Errorf("env %q: found\n%swant\n%s", c.env, data, want)
		}
	}
}

// TestFailingHooks: after a hook's failure the container is undone, and poststop hooks run all the
// same (runtime.md, Lifecycle).
func TestFailingHooks(t *testing.T) {
	w := newWorld(t)
	for name, hooks := range eachKind(failing()) {
		w.must(os.RemoveAll(filepath.Join(w.dir, "hooks")))
		w.must(os.RemoveAll(w.file("/ran")))
		spec := w.sh("touch /ran; exec sleep 1000")
		spec.Hooks = hooks
		hooks.Poststop = w.noting("poststop")
		words := "error running " + name +
			" hook #0: exit status 3, stdout: some words\n, stderr: other words\n"
		w.fails(spec, words)
		if got := w.noted(); got != "poststop b none\n" {
			t.Errorf("%s failed, and the poststop hooks noted %q", name, got)
		}
		s, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle()})
		if name == "poststart" || name == "startContainer" {
			w.must(err)
			err = w.rt.Start(background, w.id)
			reap(s.PID)
		}
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("create and start: %v", err)
		}
		if _, err := os.Stat(w.file("/ran")); err == nil && name != "poststart" {
			t.Errorf("%s failed, and the process ran", name)
		}
		if got := w.status(); got != "gone" {
			t.Errorf("after that the container is %s", got)
		}
	}
}

// TestFailingPoststop: a poststop hook that fails is a warning, and the other hooks run.
func TestFailingPoststop(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("true")
	spec.Hooks = &specs.Hooks{Poststop: append(failing(), w.noting("second")...)}
	w.run(spec)
	if len(w.warned) != 1 || !strings.Contains(w.warned[0],
		"poststop hook failed with exit code 3: error running poststop hook #0: exit status 3") {
		t.Errorf("warnings: %q", w.warned)
	}
	if got := w.noted(); got != "second b none\n" {
		t.Errorf("noted %q", got)
	}
}

func TestHookTimeout(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("true")
	spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{
		Path: "/bin/sleep",
		Args: []string{"sleep", "1000"}, Timeout: ptr(1),
	}}}
	w.fails(spec, "error running createRuntime hook #0: hook ran past specified timeout of 1.0s")
}

// TestHookTimeoutWithoutEnd: a timeout of more seconds than a duration holds does not wrap around
// to one that is over.
func TestHookTimeoutWithoutEnd(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("true")
	spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{
		Path:    "/bin/true",
		Timeout: ptr(math.MaxInt),
	}}}
	if _, _, err := w.try(spec); err != nil {
		t.Error(err)
	}
}

func TestMissingHook(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("true")
	spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/does/not/exist"}}}
	w.fails(spec, "error running createRuntime hook #0: ",
		"/does/not/exist: no such file or directory")
}

// TestUnboundedHookOutput does not fill the memory of the runtime.
func TestUnboundedHookOutput(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("true")
	spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{
		"sh", "-c",
		"head -c 10000000 /dev/zero; exit 1",
	}}}}
	_, _, err := w.try(spec)
	if err == nil || len(err.Error()) > 3*maxHookOutput {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}
