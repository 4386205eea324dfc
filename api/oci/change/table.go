// SPDX-License-Identifier: Apache-2.0

package change

// entry says how a change of one field is applied.
type entry struct {
	kind Kind
	// canUnset reports whether a field of kind Live may also be removed. The runtime gets unset
	// then.
	canUnset bool
	unset    any
}

// table returns an entry for each field that does not need a new container. A path is that of JSON
// below spec; * is any key of a map.
func table() map[string]entry {
	none := entry{kind: None}
	// The agent reads these each time that it needs them.
	agent := entry{kind: Live, canUnset: true}
	limit := func(unset any) entry { return entry{Live, true, unset} }
	setOnly := entry{kind: Live}
	return map[string]entry{
		// Whose it is, and where it runs.
		"containerRef.namespace": none,
		"containerRef.name":      none,
		"containerRef.uid":       none,
		"former.uid":             none,
		"former.generation":      none,
		"nodeName":               none,
		// Records of who compiled the spec and who can read it.
		"compiledGeneration": none,
		"minAgentRevision":   none,
		// What a version of the specification brought is in fields of its own.
		"config.ociVersion": none,
		// The digest of what config.linux.seccomp holds, which is compared itself.
		"seccompProfile": none,
		// The scheduler's.
		"requests.*": none,
		// For the next container that is created.
		"image.pullPolicy":  none,
		"image.pullSecrets": none,
		"volumePullSecrets": none,

		"restartPolicy":                 agent,
		"onConfigChange":                agent,
		"configChangeSignal":            agent,
		"dependsOn":                     agent,
		"terminationGracePeriodSeconds": agent,
		"restartBackOff.initialSeconds": agent,
		"restartBackOff.maxSeconds":     agent,
		// The supervisor's, see Set.Log. An absent value is the agent's default.
		"logging.maxSize":  {kind: Live, canUnset: true},
		"logging.maxFiles": {kind: Live, canUnset: true},

		// The agent writes the files anew.
		"downward": agent,

		// Objects that hold nothing say nothing.
		"restartBackOff":                none,
		"logging":                       none,
		"config.linux.resources":        none,
		"config.linux.resources.cpu":    none,
		"config.linux.resources.memory": none,
		"config.linux.resources.pids":   none,
		// How an update is done.
		"config.linux.resources.memory.checkBeforeUpdate": none,

		// The values of a new cgroup: kernel/sched/core.c, Documentation/admin-guide/cgroup-v2.rst.
		"config.linux.resources.cpu.shares":   limit(1024),
		"config.linux.resources.cpu.quota":    limit(-1),
		"config.linux.resources.cpu.period":   limit(100_000),
		"config.linux.resources.cpu.burst":    limit(0),
		"config.linux.resources.cpu.idle":     limit(0),
		"config.linux.resources.memory.limit": limit(-1),
		"config.linux.resources.memory.swap":  limit(-1),
		"config.linux.resources.pids.limit":   limit(-1),
		// What a new cgroup has comes from its parent (cpusets), or differs between versions of
		// cgroups.
		"config.linux.resources.cpu.cpus":           setOnly,
		"config.linux.resources.cpu.mems":           setOnly,
		"config.linux.resources.memory.reservation": setOnly,
	}
}
