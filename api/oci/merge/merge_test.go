// SPDX-License-Identifier: Apache-2.0

package merge

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	imagev1 "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berth-run/berth/api/oci/accounts"
	"github.com/berth-run/berth/api/v1alpha1"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\napp:x:1000:1001:App:/home/app:/bin/sh\nbig:x:4294967296:0::/:\nneg:x:-1:0::/:\n"
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
	spec.Config.Raw = []byte(`{}`)
	if _, err := Document(spec, nil, Options{NoSwapLimit: true}); err != nil {
		t.Error(err) // no resources to take it from
	}
}
