// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/v1alpha1"
)

// defaultGracePeriod is a Pod's, in seconds.
const defaultGracePeriod = 30

// life compiles the fields by which the container is started again and stopped.
func life(d *draft) {
	d.out.RestartPolicy = cmp.Or(d.in.RestartPolicy, corev1.RestartPolicyAlways)
	oneOf(d, d.path.Child("restartPolicy"), d.out.RestartPolicy,
		corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	configChange(d)
	dependencies(d)
	d.out.TerminationGracePeriodSeconds = defaultGracePeriod
	if g := d.in.TerminationGracePeriodSeconds; g != nil {
		d.out.TerminationGracePeriodSeconds = *g
		if *g < 0 {
			d.invalid(d.path.Child("terminationGracePeriodSeconds"), *g, "must not be negative")
		}
	}
	if p := d.in.ProgressDeadlineSeconds; p != nil && *p < 1 {
		d.invalid(d.path.Child("progressDeadlineSeconds"), *p, "must be at least 1")
	}
}

// dependencies passes on what must have happened before each start.
func dependencies(d *draft) {
	at, names := d.path.Child("dependsOn"), map[string]bool{}
	if len(d.in.DependsOn) > 0 && !d.neighbours {
		d.refuse(at, "is honoured by an agent without a cluster only, since the other Container may be on another node: remove it")
		return
	}
	for i, dep := range d.in.DependsOn {
		at := at.Index(i)
		for _, msg := range validation.IsDNS1123Subdomain(dep.Name) {
			d.invalid(at.Child("name"), dep.Name, msg)
		}
		if dep.Name == d.name {
			d.invalid(at.Child("name"), dep.Name, "must be the name of another Container")
		}
		if names[dep.Name] {
			d.faults = append(d.faults, field.Duplicate(at.Child("name"), dep.Name))
		}
		names[dep.Name] = true
		oneOf(d, at.Child("condition"), dep.Condition, v1alpha1.DependencyStarted,
			v1alpha1.DependencyCompleted)
		d.out.DependsOn = append(d.out.DependsOn, dep)
	}
}

// configChange passes on whether a change of objects restarts the container or sends a signal.
func configChange(d *draft) {
	at := d.path.Child("onConfigChange")
	switch d.in.OnConfigChange {
	case "", v1alpha1.ConfigChangeIgnore:
	case v1alpha1.ConfigChangeRestart:
		d.out.OnConfigChange = v1alpha1.ConfigChangeRestart
	case v1alpha1.ConfigChangeSignal:
		d.out.OnConfigChange = v1alpha1.ConfigChangeSignal
		d.out.ConfigChangeSignal = cmp.Or(d.in.ConfigChangeSignal, "SIGHUP")
	default:
		oneOf(d, at, d.in.OnConfigChange, v1alpha1.ConfigChangeIgnore, v1alpha1.ConfigChangeRestart,
			v1alpha1.ConfigChangeSignal)
	}
	if signal := d.in.ConfigChangeSignal; signal != "" {
		at = d.path.Child("configChangeSignal")
		if d.in.OnConfigChange != v1alpha1.ConfigChangeSignal {
			d.refuse(at, "is for onConfigChange Signal: set that, or remove configChangeSignal")
		}
		oneOf(d, at, signal, "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGQUIT", "SIGINT")
	}
}

// restartBackOff passes on the waits between restarts. The agent has the defaults.
func restartBackOff(d *draft) {
	b := d.in.RestartBackOff
	if b == nil || *b == (v1alpha1.RestartBackOff{}) {
		return
	}
	at := d.path.Child("restartBackOff")
	seconds := func(name string, v *int32) {
		if v != nil && (*v < 1 || *v > v1alpha1.MaxBackOffSeconds) {
			d.invalid(at.Child(name), *v, fmt.Sprintf("must be 1 to %d", v1alpha1.MaxBackOffSeconds))
		}
	}
	seconds("initialSeconds", b.InitialSeconds)
	seconds("maxSeconds", b.MaxSeconds)
	most := int32(v1alpha1.DefaultBackOffMaxSeconds)
	if b.MaxSeconds != nil {
		most = *b.MaxSeconds
	}
	if b.InitialSeconds != nil && *b.InitialSeconds > most {
		d.invalid(at.Child("initialSeconds"), *b.InitialSeconds,
			fmt.Sprintf("must be at most maxSeconds, which is %d: lower it or raise maxSeconds", most))
	}
	d.out.RestartBackOff = b.DeepCopy()
}

// logging passes on the limits of the log files. The agent has the defaults.
func logging(d *draft) {
	l := d.in.Logging
	if l == nil || *l == (v1alpha1.Logging{}) {
		return
	}
	at := d.path.Child("logging")
	if q := l.MaxSize; q != nil {
		size, msg := exact(*q, resource.Scale(0), maxBytes)
		if msg == "" && size < v1alpha1.MinLogSize {
			msg = "must be at least 32Ki, since a file has to hold the longest entry"
		}
		if msg != "" {
			d.invalid(at.Child("maxSize"), q.String(), msg)
		}
	}
	if n := l.MaxFiles; n != nil && (*n < v1alpha1.MinLogFiles || *n > v1alpha1.MaxLogFiles) {
		d.invalid(at.Child("maxFiles"), *n,
			fmt.Sprintf("must be %d to %d", v1alpha1.MinLogFiles, v1alpha1.MaxLogFiles))
	}
	d.out.Logging = l.DeepCopy()
}
