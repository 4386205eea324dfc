// SPDX-License-Identifier: Apache-2.0

package environment

import (
	"errors"
	"maps"
	"os/exec"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestParseFile: a file has the variables that a shell gets of it, or is refused with its line and
// nothing of its text.
func TestParseFile(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "",
		"\n \t\n# A='b'\n  # c":              "",
		"A='b'":                              "A=b",
		"A='b'\nC='d'\n":                     "A=b|C=d",
		"  A='b' # c\n\tC='d'  \n":           "A=b|C=d",
		"A=''":                               "A=",
		"A='a\n\nb'\nC='#=\"$(A)\\n'":        "A=a\n\nb|C=#=\"$(A)\\n",
		"A='1'\nA='2'":                       "A=2",
		"secret":                             "line 1: found no =",
		"A='b'\n\n='secret'":                 "line 3: found no name",
		"A ='secret'":                        "line 1: found a space before the =",
		"export A='secret'":                  "line 1: found a space before the =",
		"A= 'secret'":                        "line 1: found a value without single quotes",
		"A='a\nb'\nB=secret":                 "line 3: found a value without single quotes",
		"A=\"secret\"":                       "line 1: found a value without single quotes",
		"A='secret":                          "line 1: found no end of the value",
		"A='b''secret'":                      "line 1: found more after the value",
		"A='b'$SECRET":                       "line 1: found more after the value",
		"A='b'#secret":                       "line 1: found more after the value",
		"A='b' B='secret'":                   "line 1: found more after the value",
		"A='it\\'s secret'":                  "line 1: found more after the value",
		"A='b'\nB='secret\nC='d'\nthe='end'": "line 2: found more after the value",
		"A='b'\r\nC='secret'\r\n":            "line 1: found more after the value",
	} {
		got, err := ParseFile(text)
		var list []string
		for _, name := range []string{"A", "C"} {
			if value, ok := got[name]; ok {
				list = append(list, name+"="+value)
			}
		}
		found := strings.Join(list, "|")
		if err != nil {
			found, _, _ = strings.Cut(err.Error(), ";")
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: found %v, which shows a value", text, err)
			}
		} else {
			asShell(t, text, got)
		}
		if found != want {
			t.Errorf("%q: found %q; want %q", text, found, want)
		}
	}
}

// asShell checks that a shell reads the same values.
func asShell(t *testing.T, text string, want map[string]string) {
	t.Helper()
	for name, value := range want {
		out, err := exec.Command("/bin/sh", "-c", text+"\nprintf %s \"$"+name+"\"").Output()
		if err != nil || string(out) != value {
			t.Errorf("%q: found %q for %s; a shell: %q, %v", text, value, name, out, err)
		}
	}
}

// FuzzParseFile: whatever a container writes, it is read in one pass, or refused without its text.
func FuzzParseFile(f *testing.F) {
	for _, text := range []string{"A='b'\n# c\nC='d'", "A='b", "=", "A=''''", "\n\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseFile(text)
		if err != nil {
			return
		}
		var b strings.Builder
		for name, value := range got {
			b.WriteString(name + "='" + value + "'\n")
		}
		again, err := ParseFile(b.String())
		if err != nil || !maps.Equal(again, got) {
			t.Errorf("%q: found %q, and then %q, %v", text, got, again, err)
		}
	})
}

// TestVariableOfFile: a value is a key's in a file, as it is. What is missing is waited for unless
// it is optional; a file that cannot be read is never passed over.
func TestVariableOfFile(t *testing.T) {
	values := objects{
		{KindFile, "v/good"}: {"text": "K='$(B) hunter2'\nN='a\x00b'"},
		{KindFile, "v/bad"}:  {"text": "K=hunter2"},
		{KindFile, "v/fifo"}: {"fault": "it is no regular file"},
	}
	const at = "env[0].valueFrom.fileKeyRef: "
	for _, tc := range []struct {
		path, key string
		optional  bool
		value     string // "-" is no variable
		missing   string
		err       string
	}{
		{path: "good", key: "K", value: "$(B) hunter2"},
		{path: "good", key: "L", missing: at + `found no key "L" in the file good in the volume v`},
		{path: "good", key: "L", optional: true, value: "-"},
		{path: "none", key: "K", missing: at + "found no file none in the volume v"},
		{path: "none", key: "K", optional: true, value: "-"},
		{path: "bad", key: "K", optional: true, missing: at + "found the file bad in the volume v: line 1"},
		{path: "fifo", key: "K", missing: at + "found the file fifo in the volume v: it is no regular file"},
		{path: "good", key: "N", err: "env[0]: found a NUL byte"},
	} {
		env := []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{
			FileKeyRef: &corev1.FileKeySelector{
				VolumeName: "v", Path: tc.path, Key: tc.key, Optional: &tc.optional,
			},
		}}}
		vars, err := Compute(env, nil, values)
		value, ok := vars.Map()["A"]
		if !ok && err == nil {
			value = "-"
		}
		m, text := (*Missing)(nil), ""
		if err != nil {
			text = err.Error()
		}
		isMissing := errors.As(err, &m)
		if value != tc.value || isMissing != (tc.missing != "") || (err == nil) != (tc.value != "") ||
			!strings.HasPrefix(text, tc.missing+tc.err) || strings.Contains(text, "hunter2") {
			t.Errorf("%+v: found %q, %v", tc, value, err)
		}
	}
}
