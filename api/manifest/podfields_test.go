// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"encoding/json"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// usual follows values with which a field of a Pod means nothing on one host.
const usual = "usual "

// podFieldCases has a value for each field of a Pod's spec, of a Pod's container, of a Pod's
// securityContext and of its volumes. A value that begins with usual is taken and changes nothing,
// and one that begins with refused is refused with its path. One that begins with either does as the
// same field of a Container: it is refused, or changes the Container, as any other does.
func podFieldCases() map[reflect.Type]map[string]string {
	return map[reflect.Type]map[string]string{
		reflect.TypeFor[corev1.PodSpec]():            podSpecCases(),
		reflect.TypeFor[corev1.Container]():          podContainerCases(),
		reflect.TypeFor[corev1.PodSecurityContext](): podSecurityCases(),
		reflect.TypeFor[corev1.VolumeSource]():       podVolumeCases(),
		reflect.TypeFor[corev1.ProjectedVolumeSource](): {
			"sources":     "[{configMap: {name: a}}]",
			"defaultMode": "0600",
			"defaultUser": refused + "7",
		},
		reflect.TypeFor[corev1.VolumeProjection](): {
			"secret":              "{name: a}",
			"downwardAPI":         "{items: [{path: a, fieldRef: {fieldPath: metadata.name}}]}",
			"configMap":           "{name: a}",
			"serviceAccountToken": either + "{path: a}",
			"clusterTrustBundle":  refused + "{path: a, name: a}",
			"podCertificate":      refused + "{signerName: a/b, keyType: ED25519, keyPath: a, certificateChainPath: b}",
		},
	}
}

const (
	refused = "refused "
	either  = "either "
)

func podSpecCases() map[string]string {
	return map[string]string{
		"volumes":                       "[{name: a, hostPath: {path: /a}}]",
		"initContainers":                "[{name: i, image: i}]",
		"containers":                    "[{name: c, image: other}]",
		"ephemeralContainers":           refused + "[{name: e, image: e}]",
		"restartPolicy":                 "Never",
		"terminationGracePeriodSeconds": "7",
		"activeDeadlineSeconds":         refused + "7",
		"dnsPolicy":                     "Default",
		"nodeSelector":                  "{a: b}",
		"serviceAccountName":            refused + "a",
		"serviceAccount":                refused + "a",
		"automountServiceAccountToken":  refused + "true",
		"nodeName":                      "a",
		"hostNetwork":                   "true",
		"hostPID":                       "true",
		"hostIPC":                       "true",
		"shareProcessNamespace":         refused + "true",
		"securityContext":               "{runAsUser: 7}",
		"imagePullSecrets":              "[{name: a}]",
		"hostname":                      "a",
		"subdomain":                     "a",
		"affinity":                      refused + "{nodeAffinity: {}}",
		"schedulerName":                 refused + "a",
		"tolerations":                   "[{key: a}]",
		"hostAliases":                   "[{ip: 192.0.2.1, hostnames: [a]}]",
		"priorityClassName":             refused + "a",
		"priority":                      refused + "7",
		"dnsConfig":                     "{searches: [a]}",
		"readinessGates":                refused + "[{conditionType: a}]",
		"runtimeClassName":              "a",
		"enableServiceLinks":            usual + "true",
		"preemptionPolicy":              refused + "Never",
		"overhead":                      refused + "{cpu: 1}",
		"topologySpreadConstraints":     refused + "[{maxSkew: 1, topologyKey: a, whenUnsatisfiable: a}]",
		"setHostnameAsFQDN":             "true",
		"os":                            refused + "{name: windows}",
		"hostUsers":                     "false",
		"schedulingGates":               refused + "[{name: a}]",
		"resourceClaims":                refused + "[{name: a}]",
		"resources":                     refused + "{limits: {cpu: 1}}",
		"hostnameOverride":              refused + "a",
		"schedulingGroup":               refused + "{podGroupName: a}",
		"evictionResponders":            refused + "[{name: a/b}]",
	}
}

func podContainerCases() map[string]string {
	return map[string]string{
		"name":                     "other",
		"image":                    "other",
		"command":                  "[a]",
		"args":                     "[a]",
		"workingDir":               "/a",
		"ports":                    "[{containerPort: 7}]",
		"envFrom":                  "[{configMapRef: {name: a}}]",
		"env":                      "[{name: A, value: a}]",
		"resources":                "{limits: {cpu: 1}}",
		"resizePolicy":             refused + "[{resourceName: cpu, restartPolicy: RestartContainer}]",
		"restartPolicy":            "Never",
		"restartPolicyRules":       refused + "[{action: Restart}]",
		"volumeMounts":             "[{name: v, mountPath: /v}]",
		"volumeDevices":            refused + "[{name: v, devicePath: /dev/v}]",
		"livenessProbe":            refused + "{exec: {command: [a]}}",
		"readinessProbe":           refused + "{exec: {command: [a]}}",
		"startupProbe":             refused + "{exec: {command: [a]}}",
		"lifecycle":                refused + "{stopSignal: SIGUSR1}",
		"terminationMessagePath":   refused + "/a",
		"terminationMessagePolicy": refused + "FallbackToLogsOnError",
		"imagePullPolicy":          "Never",
		"securityContext":          "{runAsUser: 7}",
		"stdin":                    refused + "true",
		"stdinOnce":                refused + "true",
		"tty":                      refused + "true",
	}
}

func podSecurityCases() map[string]string {
	return map[string]string{
		"seLinuxOptions":           "{level: a}",
		"windowsOptions":           refused + "{runAsUserName: a}",
		"runAsUser":                "7",
		"runAsGroup":               "7",
		"runAsNonRoot":             "true",
		"supplementalGroups":       "[7]",
		"supplementalGroupsPolicy": refused + "Strict",
		"fsGroup":                  "7",
		"sysctls":                  `[{name: kernel.shm_rmid_forced, value: "1"}]`,
		"fsGroupChangePolicy":      "Always",
		"seccompProfile":           "{type: Unconfined}",
		"appArmorProfile":          "{type: Unconfined}",
		"seLinuxChangePolicy":      refused + "MountOption",
	}
}

func podVolumeCases() map[string]string {
	out := map[string]string{
		"hostPath":              "{path: /a}",
		"emptyDir":              "{medium: Memory}",
		"secret":                "{secretName: a}",
		"persistentVolumeClaim": "{claimName: a}",
		"downwardAPI":           "{items: [{path: a, fieldRef: {fieldPath: metadata.name}}]}",
		"configMap":             "{name: a}",
		"projected":             "{sources: [{configMap: {name: a}}]}",
		"image":                 either + "{reference: a}",
		"gitRepo":               refused + "{repository: a}",
		"nfs":                   refused + "{server: a, path: /a}",
		"iscsi":                 refused + "{targetPortal: a, iqn: a, lun: 1}",
		"glusterfs":             refused + "{endpoints: a, path: a}",
		"rbd":                   refused + "{monitors: [a], image: a}",
		"flexVolume":            refused + "{driver: a}",
		"cephfs":                refused + "{monitors: [a]}",
		"flocker":               refused + "{datasetName: a}",
		"fc":                    refused + "{lun: 1}",
		"azureFile":             refused + "{secretName: a, shareName: a}",
		"azureDisk":             refused + "{diskName: a, diskURI: a}",
		"quobyte":               refused + "{registry: a, volume: a}",
		"scaleIO":               refused + "{gateway: a, system: a, secretRef: {name: a}}",
		"storageos":             refused + "{volumeName: a}",
		"csi":                   refused + "{driver: a}",
		"ephemeral":             refused + "{volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce]}}}",
		"gcePersistentDisk":     refused + "{pdName: a}",
		"awsElasticBlockStore":  refused + "{volumeID: a}",
		"cinder":                refused + "{volumeID: a}",
		"vsphereVolume":         refused + "{volumePath: a}",
		"photonPersistentDisk":  refused + "{pdID: a}",
		"portworxVolume":        refused + "{volumeID: a}",
	}
	return out
}

// podWith returns a Pod of one container with a field of a struct, and the path of the field.
func podWith(t reflect.Type, name, value string) (text, path string) {
	line := name + ": " + value
	spec, container := "", "    image: a\n"
	switch t {
	case reflect.TypeFor[corev1.Container]():
		path = "spec.containers[0]." + name
		if name == "image" {
			container = ""
		}
		if name != "name" {
			container += "    " + line + "\n"
		}
	case reflect.TypeFor[corev1.PodSecurityContext]():
		path = "spec.securityContext." + name
		spec = "  securityContext: {" + line + "}\n"
		if name == "fsGroupChangePolicy" { // which is for fsGroup
			spec = "  securityContext: {fsGroup: 7, " + line + "}\n"
		}
	case reflect.TypeFor[corev1.VolumeSource]():
		return podWithVolume(line), "spec.volumes[0]." + name
	case reflect.TypeFor[corev1.ProjectedVolumeSource]():
		if name != "sources" {
			line += ", sources: [{configMap: {name: a}}]"
		}
		return podWithVolume("projected: {" + line + "}"), "spec.volumes[0].projected." + name
	case reflect.TypeFor[corev1.VolumeProjection]():
		return podWithVolume("projected: {sources: [{" + line + "}]}"),
			"spec.volumes[0].projected.sources[0]." + name
	default:
		path = "spec." + name
		spec = "  " + line + "\n"
	}
	list := "  containers:\n  - name: c\n" + container
	if t == reflect.TypeFor[corev1.Container]() && name == "name" {
		list = strings.Replace(list, "name: c", line, 1)
	}
	if path == "spec.containers" {
		list = ""
	}
	if path != "spec.volumes" {
		list += "  volumes: [{name: v, emptyDir: {}}]\n"
	}
	return podHead + spec + list, path
}

// podWithVolume returns a Pod of two containers that have a volume.
func podWithVolume(volume string) string {
	const mounts = "volumeMounts: [{name: v, mountPath: /v}]"
	return podHead + "  initContainers: [{name: i, image: a, " + mounts + "}]\n" +
		"  containers: [{name: c, image: a, " + mounts + "}]\n  volumes: [{name: v, " + volume + "}]\n"
}

// TestEveryPodField fails for a field of a Pod that is neither honoured nor refused.
func TestEveryPodField(t *testing.T) {
	cases := podFieldCases()
	plain, faults := compilePods(podHead + "  containers: [{name: c, image: a}]\n  volumes: [{name: v, emptyDir: {}}]\n")
	if len(faults) > 0 {
		t.Fatalf("found %q", faults)
	}
	before, err := json.Marshal(plain)
	if err != nil {
		t.Fatal(err)
	}
	place := regexp.MustCompile(`^\d+:\d+: `)
	for of, fields := range cases {
		names := strings.Split(namesOf(of), ", ")
		for _, name := range names {
			value, ok := fields[name]
			if !ok {
				t.Errorf("%s.%s is neither honoured nor refused: handle it in podspec.go, or refuse it in podfields.go, and add a case",
					of.Name(), name)
				continue
			}
			bare := value
			for _, prefix := range []string{refused, usual, either} {
				bare = strings.TrimPrefix(bare, prefix)
			}
			text, path := podWith(of, name, bare)
			all, faults := compilePods(text)
			if strings.HasPrefix(value, refused) || strings.HasPrefix(value, either) && len(faults) > 0 {
				if len(faults) != 1 || !strings.HasPrefix(place.ReplaceAllString(faults[0], ""), path) {
					t.Errorf("%s: found the faults %q; want one of that field in\n%s", path, faults, text)
				}
				continue
			}
			after, err := json.Marshal(all)
			same := string(after) == string(before)
			if len(faults) > 0 || err != nil || same != strings.HasPrefix(value, usual) {
				t.Errorf("%s: found %q, %v; the Container is the same: %t; of\n%s", path, faults, err, same, text)
			}
		}
		for name := range maps.Keys(fields) {
			if !slices.Contains(names, name) {
				t.Errorf("%s has no field %s", of.Name(), name)
			}
		}
	}
}

// TestUsualPodFields: what kubectl writes into every Pod is taken, and changes nothing.
func TestUsualPodFields(t *testing.T) {
	want, faults := compilePods(podHead + "  containers: [{name: c, image: a}]\n")
	got, more := compilePods(`apiVersion: v1
kind: Pod
metadata: {name: web, creationTimestamp: null}
spec:
  affinity: {}
  automountServiceAccountToken: false
  enableServiceLinks: false
  os: {name: linux}
  preemptionPolicy: PreemptLowerPriority
  priority: 0
  schedulerName: default-scheduler
  securityContext: {supplementalGroupsPolicy: Merge}
  serviceAccount: default
  serviceAccountName: default
  shareProcessNamespace: false
  containers:
  - name: c
    image: a
    resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}]
    resources: {}
    stdin: false
    terminationMessagePath: /dev/termination-log
    terminationMessagePolicy: File
status: {phase: Running}
`)
	if len(faults)+len(more) > 0 {
		t.Fatalf("found %q", append(faults, more...))
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("found %+v; want %+v", got[0].Spec, want[0].Spec)
	}
}
