// SPDX-License-Identifier: Apache-2.0

package merge

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	imagev1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berth-run/berth/api/oci/accounts"
	"github.com/berth-run/berth/api/v1alpha1"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\napp:x:1000:1001:App:/home/app:/bin/sh\nbig:x:4294967296:0::/:\nneg:x:-1:0::/:\n" +
		"4294967296:x:0:0::/:\n-1:x:0:0::/:\n+0:x:0:0::/:\n+nis:x:0:0::/:\n"
	groups = "root:x:0:\nwheel:x:10:root,app\napp:x:1001:\nvideo:x:44:app,other\n"
)

func ptr[T any](v T) *T { return &v }

func TestDocument(t *testing.T) {
	image := imagev1.ImageConfig{
		Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}, WorkingDir: "/srv", User: "app",
		Env: []string{"A=image", "B=image", "noequals", "=x"},
	}
	for name, tc := range map[string]struct {
		config  string
		process v1alpha1.BundleProcess
		image   *imagev1.ImageConfig
		args    []string
		cwd     string
		env     []string
		uid     uint32
		gid     uint32
		groups  []uint32
		err     string
	}{
		"the image says all": {
			image: &image, args: []string{"/entry", "serve"}, cwd: "/srv", uid: 1000, gid: 1001,
			groups: []uint32{1001, 10, 44},
			env:    []string{"PATH=" + DefaultPath, "HOME=/home/app", "A=image", "B=image"},
		},
		"command replaces entrypoint and cmd": {
			image: &image, process: v1alpha1.BundleProcess{Command: []string{"/mine"}},
			args: []string{"/mine"}, cwd: "/srv", uid: 1000, gid: 1001, groups: []uint32{1001, 10, 44},
			env: []string{"PATH=" + DefaultPath, "HOME=/home/app", "A=image", "B=image"},
		},
		"args replace cmd alone": {
			image: &image, process: v1alpha1.BundleProcess{Args: []string{"x", "y"}},
			args: []string{"/entry", "x", "y"}, cwd: "/srv", uid: 1000, gid: 1001,
			groups: []uint32{1001, 10, 44},
			env:    []string{"PATH=" + DefaultPath, "HOME=/home/app", "A=image", "B=image"},
		},
		"the user's environment lies over the image's": {
			config: `{"process":{"env":["B=mine","PATH=/p","C=3"]}}`,
			image:  &image, process: v1alpha1.BundleProcess{WorkingDir: "/w"},
			args: []string{"/entry", "serve"}, cwd: "/w", uid: 1000, gid: 1001,
			groups: []uint32{1001, 10, 44},
			env:    []string{"PATH=/p", "HOME=/home/app", "A=image", "B=mine", "C=3"},
		},
		"runAsUser lies over the image's user, with that user's group": {
			image: &image, process: v1alpha1.BundleProcess{RunAsUser: ptr(int64(0))},
			args: []string{"/entry", "serve"}, cwd: "/srv", uid: 0, gid: 0, groups: []uint32{0, 10},
			env: []string{"PATH=" + DefaultPath, "HOME=/root", "A=image", "B=image"},
		},
		"runAsGroup": {
			image: &image, process: v1alpha1.BundleProcess{
				RunAsUser:  ptr(int64(7)),
				RunAsGroup: ptr(int64(8)),
			}, args: []string{"/entry", "serve"}, cwd: "/srv", uid: 7, gid: 8,
			groups: []uint32{8},
			env:    []string{"PATH=" + DefaultPath, "HOME=/", "A=image", "B=image"},
		},
		"no image": {
			process: v1alpha1.BundleProcess{Command: []string{"/bin/x"}}, args: []string{"/bin/x"}, cwd: "/",
			groups: []uint32{0, 10},
			env:    []string{"PATH=" + DefaultPath, "HOME=/root"},
		},
		"nothing to run": {image: &imagev1.ImageConfig{}, err: "process.args"},
		"runAsNonRoot against no user": {
			image:   &imagev1.ImageConfig{Cmd: []string{"x"}},
			process: v1alpha1.BundleProcess{RunAsNonRoot: true}, err: "runAsNonRoot",
		},
		"unknown user": {
			image: &imagev1.ImageConfig{Cmd: []string{"x"}, User: "nobody"},
			err:   `"nobody"`,
		},
		"unknown group": {image: &imagev1.ImageConfig{
			Cmd:  []string{"x"},
			User: "app:nogroup",
		}, err: `"nogroup"`},
		"uid above 2^31-1": {image: &imagev1.ImageConfig{
			Cmd:  []string{"x"},
			User: "2147483648",
		}, err: "2147483648"},
		"uid above 2^32": {image: &imagev1.ImageConfig{
			Cmd:  []string{"x"},
			User: "4294967296",
		}, err: "4294967296"},
		"account with a uid that wraps": {
			image: &imagev1.ImageConfig{Cmd: []string{"x"}, User: "big"},
			err:   `"big"`,
		},
		"negative uid": {
			image: &imagev1.ImageConfig{Cmd: []string{"x"}, User: "-1"},
			err:   `"-1"`,
		},
		"user in another base": {
			image: &imagev1.ImageConfig{Cmd: []string{"x"}, User: "0x0"},
			err:   `"0x0"`,
		},
		"user with a sign": {
			image: &imagev1.ImageConfig{Cmd: []string{"x"}, User: "+0"},
			err:   `"+0"`,
		},
		"user with a newline": {
			image: &imagev1.ImageConfig{Cmd: []string{"x"}, User: "0\n"},
			err:   `"0\n"`,
		},
		"digits of another script": {
			image: &imagev1.ImageConfig{Cmd: []string{"x"}, User: "٠"},
			err:   "٠",
		},
		"line of the name service": {
			image: &imagev1.ImageConfig{Cmd: []string{"x"}, User: "+nis"},
			err:   `"+nis"`,
		},
		"gid above 2^32": {
			image: &imagev1.ImageConfig{Cmd: []string{"x"}, User: "0:4294967296"},
			err:   "4294967296",
		},
		"two groups": {
			image: &imagev1.ImageConfig{Cmd: []string{"x"}, User: "app:app:root"},
			err:   `"app:root"`,
		},
		"empty group": {
			image: &imagev1.ImageConfig{Cmd: []string{"x"}, User: "1:"},
			err:   "group",
		},
		"empty user": {
			image: &imagev1.ImageConfig{Cmd: []string{"x"}, User: ":1"},
			err:   "user",
		},
		"runAsUser above 2^31-1": {
			image:   &image,
			process: v1alpha1.BundleProcess{RunAsUser: ptr(int64(1) << 31)}, err: "process.runAsUser",
		},
		"config of another type": {config: `{"process":{"env":3}}`, image: &image, err: "config: "},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.config == "" {
				tc.config = `{"ociVersion":"1.3.0"}`
			}
			b := &v1alpha1.OCIBundleSpec{
				Config:  runtime.RawExtension{Raw: []byte(tc.config)},
				Process: tc.process,
			}
			spec, err := Document(b, tc.image, Options{
				CgroupsPath: "/berth/id",
				Accounts:    accounts.Parse([]byte(passwd), []byte(groups)),
			})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("found error %v; want one with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			p := spec.Process
			if !reflect.DeepEqual(p.Args, tc.args) {
				t.Errorf("args: found %q; want %q", p.Args, tc.args)
			}
			if p.Cwd != tc.cwd {
				t.Errorf("cwd: found %q; want %q", p.Cwd, tc.cwd)
			}
			if !reflect.DeepEqual(p.Env, tc.env) {
				t.Errorf("env: found %q; want %q", p.Env, tc.env)
			}
			if p.User.UID != tc.uid || p.User.GID != tc.gid || !reflect.DeepEqual(p.User.AdditionalGids,
				tc.groups) {
				t.Errorf("user: found %+v; want %d:%d %v", p.User, tc.uid, tc.gid, tc.groups)
			}
			if spec.Linux.CgroupsPath != "/berth/id" {
				t.Errorf("cgroupsPath: found %q", spec.Linux.CgroupsPath)
			}
		})
	}
}

// TestOnlySomeFieldsOfAnImageCount: CVE-2026-94603 and CVE-2026-121885 (podman), CVE-2026-53488
// (containerd): the document is the same whatever the other fields of the image's config have,
// labels named like control keys of Berth and of others among them.
func TestOnlySomeFieldsOfAnImageCount(t *testing.T) {
	image := imagev1.ImageConfig{
		Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}, WorkingDir: "/srv", User: "app",
		Env: []string{"A=image"}, StopSignal: "SIGINT",
	}
	merged := func(image *imagev1.ImageConfig) []byte {
		b := &v1alpha1.OCIBundleSpec{Config: runtime.RawExtension{Raw: []byte(
			`{"ociVersion":"1.3.0","annotations":{"mine":"1"},"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO"}}}`)}}
		spec, err := Document(b, image, Options{
			CgroupsPath: "/berth/id",
			Accounts:    accounts.Parse([]byte(passwd), []byte(groups)),
		})
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	want := merged(&image)
	counts := map[string]bool{
		"Entrypoint": true, "Cmd": true, "WorkingDir": true, "User": true, "Env": true, "StopSignal": true,
	}
	hostile := reflect.ValueOf(&image).Elem()
	for i := range hostile.NumField() {
		name := hostile.Type().Field(i).Name
		if counts[name] {
			continue
		}
		switch f := hostile.Field(i); f.Interface().(type) {
		case map[string]struct{}:
			f.Set(reflect.ValueOf(map[string]struct{}{"/etc": {}, "/proc/1/root": {}, "0.0.0.0:22/tcp": {}}))
		case map[string]string:
			f.Set(reflect.ValueOf(map[string]string{
				"berth.run/recompile": "1", "berth.run/restart": "1", "mine": "2", "run.oci.hooks.stdout": "/x",
				"run.oci.keep_original_groups": "1", "org.systemd.property.DeviceAllow": "*",
				"io.podman.annotations.privileged": "TRUE", "io.containers.autoupdate": "registry",
				"io.kubernetes.cri-o.Devices": "/dev/sda", "cdi.k8s.io/x": "vendor.com/device=all",
			}))
		case bool:
			f.SetBool(true)
		default:
			t.Fatalf("a new field of the image's config: %s", name)
		}
	}
	if got := merged(&image); !bytes.Equal(got, want) {
		t.Errorf("with other fields of the image's config:\n%s\nwithout:\n%s", got, want)
	}
}

// TestEnvironmentOfAnImage: CVE-2026-57231 (podman): a name without a value, or a pattern of names,
// is no variable, and takes none from the agent's environment.
func TestEnvironmentOfAnImage(t *testing.T) {
	t.Setenv("BERTH_SECRET", "hunter2")
	image := imagev1.ImageConfig{Cmd: []string{"x"}, Env: []string{
		"BERTH_SECRET", "BERTH_*", "*", "", "=", "=BERTH_SECRET", "==x", "A=$BERTH_SECRET", "B=${BERTH_SECRET}",
		"C=$(BERTH_SECRET)", "HOME",
	}}
	b := &v1alpha1.OCIBundleSpec{Config: runtime.RawExtension{Raw: []byte(`{}`)}}
	spec, err := Document(b, &image, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"PATH=" + DefaultPath, "HOME=/", "A=$BERTH_SECRET", "B=${BERTH_SECRET}", "C=$(BERTH_SECRET)",
	}
	if !reflect.DeepEqual(spec.Process.Env, want) {
		t.Errorf("found %q; want %q", spec.Process.Env, want)
	}
}

func TestDocumentRunAsNonRootIsAnErrorOfItsOwn(t *testing.T) {
	b := &v1alpha1.OCIBundleSpec{
		Config:  runtime.RawExtension{Raw: []byte(`{}`)},
		Process: v1alpha1.BundleProcess{Command: []string{"x"}, RunAsNonRoot: true},
	}
	if _, err := Document(b, nil, Options{}); !errors.Is(err, ErrRoot) {
		t.Fatalf("found %v; want ErrRoot", err)
	}
}

func TestDocumentWithoutSwapLimit(t *testing.T) {
	spec := &v1alpha1.OCIBundleSpec{
		Config: runtime.RawExtension{Raw: []byte(
			`{"linux":{"resources":{"memory":{"limit":4096,"swap":4096},"pids":{"limit":3}}}}`)},
		Process: v1alpha1.BundleProcess{Command: []string{"/x"}},
	}
	for _, none := range []bool{false, true} {
		merged, err := Document(spec, nil, Options{NoSwapLimit: none})
		if err != nil {
			t.Fatal(err)
		}
		r := merged.Linux.Resources
		if got := r.Memory.Swap; (got == nil) != none || got != nil && *got != 4096 {
			t.Errorf("NoSwapLimit %v: swap is %v", none, got)
		}
		if r.Memory.Limit == nil || *r.Memory.Limit != 4096 || r.Pids == nil {
			t.Errorf("NoSwapLimit %v: the other limits are gone: %+v", none, r)
		}
	}
	for _, memory := range []string{`{"limit":4096,"swap":4097}`, `{"swap":4097}`} {
		spec.Config.Raw = []byte(`{"linux":{"resources":{"memory":` + memory + `}}}`)
		if _, err := Document(spec, nil, Options{}); err != nil {
			t.Error(err)
		}
		_, err := Document(spec, nil, Options{NoSwapLimit: true})
		if err == nil || !strings.HasPrefix(err.Error(), "spec.resources.limits[swap]: found ") {
			t.Errorf("swap that no kernel limits: found %v", err)
		}
	}
	spec.Config.Raw = []byte(`{"linux":{"resources":{"memory":{"limit":-1,"swap":-1}}}}`)
	if _, err := Document(spec, nil, Options{NoSwapLimit: true}); err != nil {
		t.Error(err)
	}
	spec.Config.Raw = []byte(`{}`)
	if _, err := Document(spec, nil, Options{NoSwapLimit: true}); err != nil {
		t.Error(err) // no resources to take it from
	}
}

// TestDevicesBelowMounts: of all devices of the node, those that a volume hides are left out.
func TestDevicesBelowMounts(t *testing.T) {
	spec, err := Document(&v1alpha1.OCIBundleSpec{
		AllDevices: true, Process: v1alpha1.BundleProcess{Command: []string{"x"}},
		Config: runtime.RawExtension{Raw: []byte(
			`{"mounts":[{"destination":"/dev"},{"destination":"/dev/snd"},{"destination":"/dev/a/b"}]}`)},
	}, nil, Options{Devices: []specs.LinuxDevice{
		{Path: "/dev/a"}, {Path: "/dev/fuse"}, {Path: "/dev/snd/timer"}, {Path: "/dev/sndx"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, d := range spec.Linux.Devices {
		paths = append(paths, d.Path)
	}
	if want := []string{"/dev/fuse", "/dev/sndx"}; !slices.Equal(paths, want) {
		t.Errorf("found %v; want %v", paths, want)
	}
}

// TestNoLimit: no limit reaches the kernel, also through an API server, which reads numbers of the
// document as floating-point numbers.
func TestNoLimit(t *testing.T) {
	spec, err := Document(&v1alpha1.OCIBundleSpec{
		Process: v1alpha1.BundleProcess{
			Command: []string{"x"}, Ulimits: []v1alpha1.Ulimit{{Name: "core", Soft: 0, Hard: -1}},
		},
		Config: runtime.RawExtension{Raw: []byte(`{}`)},
	}, nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Hard: math.MaxUint64}}
	if got := spec.Process.Rlimits; !slices.Equal(got, want) {
		t.Errorf("found %v; want %v", got, want)
	}
}

// TestClaims: mounts of a claim get its directory, and are read-only if it is, as do those of a
// volume of another Container. A mount of another volume stays as it is, and a volume without a
// directory is an error.
func TestClaims(t *testing.T) {
	bundle := &v1alpha1.OCIBundleSpec{
		Process: v1alpha1.BundleProcess{Command: []string{"/x"}},
		Config: runtime.RawExtension{Raw: []byte(`{"mounts":[
			{"destination":"/a","source":"claims/a","options":["rbind","rw"]},
			{"destination":"/b","source":"claims/b","options":["rbind","rw"]},
			{"destination":"/c","source":"claims/b","options":["rbind","rro"]},
			{"destination":"/d","source":"volumes/b","options":["rbind","rw"]},
			{"destination":"/e","source":"subpaths/4","options":["rbind","rw"]},
			{"destination":"/f","source":"subpaths/5","options":["rbind","rw"]},
			{"destination":"/g","source":"claims/c","options":["rbind","rw"]}]}`)},
		SubPaths: []v1alpha1.BundleSubPath{
			{Mount: 4, Source: NodeSource("b"), Path: "x"}, {Mount: 5, Source: "volumes/b", Path: "x"},
		},
	}
	for _, name := range []string{"a", "b"} {
		bundle.Volumes = append(bundle.Volumes, v1alpha1.Volume{
			Name: name, PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
		})
	}
	bundle.Volumes = append(bundle.Volumes, v1alpha1.Volume{
		Name: "c", Container: &v1alpha1.ContainerVolume{Name: "web", Volume: "data"},
	})
	claims := map[string]Directory{
		"a": {Path: "/v/a"}, "b": {Path: "/v/b", ReadOnly: true}, "c": {Path: "/v/c"},
	}
	spec, err := Document(bundle, nil, Options{Directories: claims})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range spec.Mounts {
		got = append(got, m.Destination+" "+m.Source+" "+m.Options[1])
	}
	want := []string{
		"/a /v/a rw", "/b /v/b ro", "/c /v/b rro", "/d volumes/b rw",
		"/e subpaths/4 ro", "/f subpaths/5 rw", "/g /v/c rw",
	}
	if !slices.Equal(got, want) {
		t.Errorf("found %q; want %q", got, want)
	}
	for name, want := range map[string]string{
		"b": "volumes[1].persistentVolumeClaim: ", "c": "volumes[2].container: ",
	} {
		left := maps.Clone(claims)
		delete(left, name)
		_, err := Document(bundle, nil, Options{Directories: left})
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("found %v", err)
		}
	}
}
