package main

import (
	"fmt"
	"testing"
	"time"

	"knarr.dev/knarr/internal/kinds"
)

// deploying two pods with one container.
func deploying(name, container string) string { return deployingOf(name, 2, container, "") }

// deployingOf replicas; more is for the pods' spec.
func deployingOf(name string, replicas int, container, more string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %s}
spec:
  replicas: %d
  selector: {matchLabels: {app: %s}}
  template:
    metadata: {labels: {app: %s}}
    spec: {%scontainers: [%s]}`, name, replicas, name, name, more, container)
}

func pod(name, container, more string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec: {%scontainers: [%s]}`, name, name, more, container)
}

func jobOfOne(name, command, more string) string {
	return fmt.Sprintf(`apiVersion: batch/v1
kind: Job
metadata: {name: %s}
spec: {%stemplate: {spec: {restartPolicy: Never, containers: [{name: c, image: i, command: %s}]}}}`, name, more, command)
}

const plain = "{name: c, image: i}"

func faults() []fault {
	var all []fault
	for _, family := range [][]fault{imageFaults(), configFaults(), containerFaults(), schedulingFaults(), admissionFaults(), storageFaults(), workloadFaults(), batchFaults(), serviceFaults(), nodeFaults(), endingFaults()} {
		all = append(all, family...)
	}
	return all
}

func imageFaults() []fault {
	return []fault{
		{name: "wrong image", ask: "deployment/web", object: "Pod default/web-*", phrase: `the image "missing.example/x:1" of container c does not exist in its registry`, make: deploying("web", `{name: c, image: "missing.example/x:1"}`)},
		{name: "private image", ask: "deployment/web", object: "Pod default/web-*", phrase: "is refused by its registry", make: deploying("web", `{name: c, image: "private.example/x:1"}`)},
		{name: "registry away", ask: "pod/p", object: "Pod default/p", phrase: "registry cannot be reached", make: pod("p", `{name: c, image: "away.example/x:1"}`, "")},
		{name: "invalid image name", ask: "pod/p", object: "Pod default/p", phrase: "has an invalid name", make: pod("p", `{name: c, image: "Upper/X"}`, "")},
		{name: "image never pulled", ask: "pod/p", object: "Pod default/p", phrase: "is not on the node, and is not to be pulled", make: pod("p", `{name: c, image: i, imagePullPolicy: Never}`, "")},
		{name: "missing pull secret", ask: "deployment/web", object: "Secret default/pull", phrase: "does not exist", make: deployingOf("web", 1, `{name: c, image: "private.example/x:1"}`, "imagePullSecrets: [{name: pull}], ")},
		{name: "image of an init container", ask: "pod/p", object: "Pod default/p", phrase: `of container first does not exist`, make: pod("p", plain, `initContainers: [{name: first, image: "missing.example/x:1"}], `)},
	}
}

func configFaults() []fault {
	env := func(source string) string {
		return "{name: c, image: i, env: [{name: A, valueFrom: {" + source + "}}]}"
	}
	const configMap = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: conf}\ndata: {other: x}\n---\n"
	const secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: conf}\nstringData: {other: x}\n---\n"
	return []fault{
		{name: "missing config map", ask: "deployment/web", object: "ConfigMap default/conf", phrase: "does not exist", make: deploying("web", env("configMapKeyRef: {name: conf, key: k}"))},
		{name: "missing secret", ask: "deployment/web", object: "Secret default/conf", phrase: "does not exist", make: deploying("web", env("secretKeyRef: {name: conf, key: k}"))},
		{name: "config map without the key", ask: "pod/p", object: "ConfigMap default/conf", phrase: "it has no key k", make: configMap + pod("p", env("configMapKeyRef: {name: conf, key: k}"), "")},
		{name: "secret without the key", ask: "pod/p", object: "Secret default/conf", phrase: "it has no key k", make: secret + pod("p", env("secretKeyRef: {name: conf, key: k}"), "")},
		{name: "envFrom of nothing", ask: "pod/p", object: "ConfigMap default/conf", phrase: "does not exist", make: pod("p", "{name: c, image: i, envFrom: [{configMapRef: {name: conf}}]}", "")},
		{name: "volume of a missing config map", ask: "deployment/web", object: "ConfigMap default/conf", phrase: "does not exist", make: deployingOf("web", 2, plain, "volumes: [{name: v, configMap: {name: conf}}], ")},
		{name: "volume of a missing secret", ask: "pod/p", object: "Secret default/conf", phrase: "does not exist", make: pod("p", plain, "volumes: [{name: v, secret: {secretName: conf}}], ")},
		{name: "volume of a missing key", ask: "pod/p", object: "ConfigMap default/conf", phrase: "it has no key k", make: configMap + pod("p", plain, "volumes: [{name: v, configMap: {name: conf, items: [{key: k, path: k}]}}], ")},
		{name: "root where none may be", ask: "pod/p", object: "Pod default/p", phrase: "image will run as root", make: pod("p", "{name: c, image: i, securityContext: {runAsNonRoot: true}}", "")},
	}
}

func containerFaults() []fault {
	command := func(c, more string) string { return "{name: c, image: i, command: " + c + more + "}" }
	return []fault{
		{name: "crash", ask: "deployment/web", object: "Pod default/web-*", phrase: "container c ended with exit code 3", make: deploying("web", command(`[exit, "3", "no database"]`, ""))},
		{name: "crash with last words", ask: "pod/p", object: "Pod default/p", phrase: "no database at db:5432", make: pod("p", command(`[exit, "1", "no database at db:5432"]`, ""), "")},
		{name: "segmentation fault", ask: "pod/p", object: "Pod default/p", phrase: "by signal 11 (segmentation fault)", make: pod("p", command(`[exit, "139"]`, ""), "")},
		{name: "program not found", ask: "pod/p", object: "Pod default/p", phrase: "executable file not found", make: pod("p", command(`[nope]`, ""), "")},
		{name: "out of memory", ask: "deployment/web", object: "Pod default/web-*", phrase: "used more memory than its limit of 64Mi", make: deploying("web", command(`[oom]`, ", resources: {limits: {memory: 64Mi}}"))},
		{name: "ends by itself", ask: "deployment/web", object: "Pod default/web-*", phrase: "is to run for ever", make: deploying("web", command(`[exit, "0"]`, ""))},
		{name: "failing liveness probe", ask: "deployment/web", object: "Pod default/web-*", phrase: "its liveness probe fails", make: deploying("web", `{name: c, image: i, livenessProbe: {exec: {command: ["false"]}}}`)},
		{name: "failing startup probe", ask: "pod/p", object: "Pod default/p", phrase: "its startup probe fails", make: pod("p", `{name: c, image: i, startupProbe: {httpGet: {port: 8080}}}`, "")},
		{name: "readiness probe on the wrong port", ask: "deployment/web", object: "Pod default/web-*", phrase: "connection refused", make: deploying("web", `{name: c, image: i, readinessProbe: {tcpSocket: {port: 8080}}}`)},
		{name: "readiness probe is answered badly", ask: "pod/p", object: "Pod default/p", phrase: "Readiness probe failed: HTTP probe failed with statuscode: 500", make: pod("p", `{name: c, image: i, readinessProbe: {httpGet: {port: 8080}}}`, "")},
		{name: "readiness gate", ask: "pod/p", object: "Pod default/p", phrase: "nobody has set the condition of its readiness gate example.com/g", make: pod("p", plain, "readinessGates: [{conditionType: example.com/g}], ")},
		{name: "init container crashes", ask: "pod/p", object: "Pod default/p", phrase: "container first ended with exit code 2", make: pod("p", plain, `initContainers: [{name: first, image: i, command: [exit, "2"]}], `)},
		{name: "hook fails", ask: "pod/p", object: "Pod default/p", phrase: "the postStart hook of container c fails", make: pod("p", `{name: c, image: i, lifecycle: {postStart: {exec: {command: ["false"]}}}}`, "")},
		{name: "RBAC", ask: "deployment/web", object: "ServiceAccount default/reader", phrase: "it may not list deployments.apps in namespace default",
			make: "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: reader}\n---\n" + deployingOf("web", 1, command(`[exit, "1", 'deployments.apps is forbidden: User "system:serviceaccount:default:reader" cannot list resource "deployments" in API group "apps" in the namespace "default"']`, ""), "serviceAccountName: reader, ")},
		{name: "pod past its deadline", ask: "pod/p", object: "Pod default/p", phrase: "DeadlineExceeded", make: pod("p", plain, "activeDeadlineSeconds: 5, ")},
		{name: "evicted", ask: "pod/p", object: "Pod default/p", phrase: `the node evicted it: Usage of EmptyDir volume "d" exceeds the limit "1Mi"`, make: pod("p", plain, ""), then: func(t *testing.T, f *faulty) {
			f.patch(t, kinds.Pod, "p", `{"metadata":{"annotations":{"paper/evicted":"Usage of EmptyDir volume \"d\" exceeds the limit \"1Mi\""}}}`)
			f.pass(t, 40*time.Second)
		}},
		{name: "refused by the node", ask: "pod/q", object: "Pod default/q", phrase: "refused it (NodePorts)", make: pod("p", "{name: c, image: i, ports: [{containerPort: 80, hostPort: 80}]}", "nodeName: n0, "), then: func(t *testing.T, f *faulty) {
			f.create(t, pod("q", "{name: c, image: i, ports: [{containerPort: 80, hostPort: 80}]}", "nodeName: n0, "))
			f.pass(t, 40*time.Second)
		}},
	}
}

func schedulingFaults() []fault {
	return []fault{
		{name: "too much cpu", ask: "deployment/web", object: "Pod default/web-*", phrase: "0/4 nodes are available: 4 Insufficient cpu", make: deploying("web", "{name: c, image: i, resources: {requests: {cpu: 3}}}")},
		{name: "no such node label", ask: "pod/p", object: "Pod default/p", phrase: "didn't match Pod's node affinity/selector", make: pod("p", plain, "nodeSelector: {disk: ssd}, ")},
		{name: "taint", ask: "pod/p", object: "Pod default/p", phrase: "untolerated taint", then: func(t *testing.T, f *faulty) {
			for i := range nodes {
				f.patch(t, kinds.Node, fmt.Sprintf("n%d", i), `{"spec":{"taints":[{"key":"only","value":"db","effect":"NoSchedule"}]}}`)
			}
			f.create(t, pod("p", plain, ""))
			f.pass(t, 40*time.Second)
		}},
		{name: "cordoned", ask: "pod/p", object: "Pod default/p", phrase: "were unschedulable", then: func(t *testing.T, f *faulty) {
			for i := range nodes {
				f.patch(t, kinds.Node, fmt.Sprintf("n%d", i), `{"spec":{"unschedulable":true}}`)
			}
			f.create(t, pod("p", plain, ""))
			f.pass(t, 40*time.Second)
		}},
		{name: "port clash", ask: "deployment/web", object: "Pod default/web-*", phrase: "didn't have free ports", make: deployingOf("web", 5, "{name: c, image: i, ports: [{containerPort: 80, hostPort: 80}]}", "")},
		{name: "anti-affinity", ask: "deployment/web", object: "Pod default/web-*", phrase: "anti-affinity", make: deployingOf("web", 5, plain, "affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: web}}}]}}, ")},
		{name: "unknown scheduler", ask: "pod/p", object: "Pod default/p", phrase: "the scheduler mine has not looked at it", make: pod("p", plain, "schedulerName: mine, ")},
		{name: "scheduling gate", ask: "pod/p", object: "Pod default/p", phrase: "scheduling gates: example.com/g", make: pod("p", plain, "schedulingGates: [{name: example.com/g}], ")},
	}
}

func admissionFaults() []fault {
	const quota = "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: small}\nspec: {hard: {%s}}"
	later := func(manifests string) func(*testing.T, *faulty) {
		return func(t *testing.T, f *faulty) {
			f.create(t, manifests)
			f.pass(t, 40*time.Second)
		}
	}
	return []fault{
		{name: "quota", ask: "deployment/web", object: "ResourceQuota default/small", phrase: "it leaves no room: requested pods=1, used pods=1, limited to pods=1", make: fmt.Sprintf(quota, "pods: 1"), then: later(deploying("web", plain))},
		{name: "quota wants requests", ask: "deployment/web", object: "ResourceQuota default/small", phrase: "must specify requests.cpu", make: fmt.Sprintf(quota, "requests.cpu: 1"), then: later(deploying("web", plain))},
		{name: "quota of a stateful set", ask: "statefulset/db", object: "ResourceQuota default/small", phrase: "it leaves no room", make: fmt.Sprintf(quota, "pods: 0"), then: later("apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec: {serviceName: db, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, image: i}]}}}")},
		{name: "quota of a daemon set", ask: "daemonset/each", object: "ResourceQuota default/small", phrase: "it leaves no room", make: fmt.Sprintf(quota, "pods: 0"), then: later("apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: each}\nspec: {selector: {matchLabels: {app: each}}, template: {metadata: {labels: {app: each}}, spec: {containers: [{name: c, image: i}]}}}")},
		{name: "quota of a job", ask: "job/once", object: "ResourceQuota default/small", phrase: "it leaves no room", make: fmt.Sprintf(quota, "pods: 0"), then: later(jobOfOne("once", "[x]", ""))},
		{name: "quota of a replication controller", ask: "replicationcontroller/rc", object: "ResourceQuota default/small", phrase: "it leaves no room", make: fmt.Sprintf(quota, "pods: 0"), then: later("apiVersion: v1\nkind: ReplicationController\nmetadata: {name: rc}\nspec: {replicas: 1, selector: {app: rc}, template: {metadata: {labels: {app: rc}}, spec: {containers: [{name: c, image: i}]}}}")},
		{name: "pod security", ask: "deployment/web", object: "Namespace default", phrase: `its Pod Security level baseline:latest forbids the pods: host namespaces (hostNetwork=true)`, then: func(t *testing.T, f *faulty) {
			f.patch(t, kinds.Namespace, "default", `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"baseline"}}}`)
			later(deployingOf("web", 1, plain, "hostNetwork: true, "))(t, f)
		}},
		{name: "limit range", ask: "deployment/web", object: "LimitRange default/small", phrase: "maximum cpu usage per Container is 100m", make: "apiVersion: v1\nkind: LimitRange\nmetadata: {name: small}\nspec: {limits: [{type: Container, max: {cpu: 100m}}]}", then: later(deploying("web", "{name: c, image: i, resources: {limits: {cpu: 1}}}"))},
		{name: "missing service account", ask: "deployment/web", object: "ServiceAccount default/robot", phrase: "does not exist", make: deployingOf("web", 1, plain, "serviceAccountName: robot, ")},
		{name: "missing priority class", ask: "deployment/web", object: "PriorityClass high", phrase: "does not exist", make: deployingOf("web", 1, plain, "priorityClassName: high, ")},
		{name: "missing runtime class", ask: "deployment/web", object: "RuntimeClass kata", phrase: "does not exist", make: deployingOf("web", 1, plain, "runtimeClassName: kata, ")},
	}
}

func storageFaults() []fault {
	claim := func(name, more string) string {
		return "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: " + name + "}\nspec: {" + more + "accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}"
	}
	const class = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: %s}\nprovisioner: %s\n---\n"
	return []fault{
		{name: "claim of no class", ask: "persistentvolumeclaim/data", object: "PersistentVolumeClaim default/data", phrase: "it names no StorageClass, there is no default one", make: claim("data", "")},
		{name: "claim of a missing class", ask: "persistentvolumeclaim/data", object: "StorageClass fast", phrase: "does not exist", make: claim("data", "storageClassName: fast, ")},
		{name: "claim that nobody provisions", ask: "persistentvolumeclaim/data", object: "PersistentVolumeClaim default/data", phrase: "it waits for the provisioner example.com/p", make: fmt.Sprintf(class, "slow", "example.com/p") + claim("data", "storageClassName: slow, ")},
		{name: "claim without a volume made by hand", ask: "persistentvolumeclaim/data", object: "PersistentVolumeClaim default/data", phrase: "no PersistentVolume of that class fits", make: fmt.Sprintf(class, "hand", "kubernetes.io/no-provisioner") + claim("data", "storageClassName: hand, ")},
		{name: "claim of a missing volume", ask: "persistentvolumeclaim/data", object: "PersistentVolume pv", phrase: "does not exist", make: claim("data", `storageClassName: "", volumeName: pv, `)},
	}
}

func workloadFaults() []fault {
	return []fault{
		{name: "paused deployment", ask: "deployment/web", object: "Deployment default/web", phrase: "it is paused", make: deploying("web", plain), then: func(t *testing.T, f *faulty) {
			f.patch(t, kinds.Deployment, "web", `{"spec":{"paused":true,"template":{"metadata":{"annotations":{"a":"b"}}}}}`)
			f.pass(t, 40*time.Second)
		}},
		{name: "rollout past its deadline", ask: "deployment/web", object: "Pod default/web-*", phrase: "does not exist in its registry", make: deploying("web", plain), then: func(t *testing.T, f *faulty) {
			f.patch(t, kinds.Deployment, "web", `{"spec":{"progressDeadlineSeconds":20,"template":{"spec":{"containers":[{"name":"c","image":"missing.example/x:2"}]}}}}`)
			f.pass(t, time.Minute)
		}},
		{name: "daemon set for no node", ask: "daemonset/each", object: "DaemonSet default/each", phrase: "none has the labels of its nodeSelector, disk=ssd", make: "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: each}\nspec: {selector: {matchLabels: {app: each}}, template: {metadata: {labels: {app: each}}, spec: {nodeSelector: {disk: ssd}, containers: [{name: c, image: i}]}}}"},
		{name: "daemon set whose pods crash", ask: "daemonset/each", object: "Pod default/each-*", phrase: "ended with exit code 4", make: "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: each}\nspec: {selector: {matchLabels: {app: each}}, template: {metadata: {labels: {app: each}}, spec: {containers: [{name: c, image: i, command: [exit, \"4\"]}]}}}"},
		{name: "first pod of a stateful set", ask: "statefulset/db", object: "Pod default/db-0", phrase: "Readiness probe failed", make: "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec: {replicas: 3, serviceName: db, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, image: i, readinessProbe: {exec: {command: [\"false\"]}}}]}}}"},
	}
}

func batchFaults() []fault {
	return []fault{
		{name: "job fails", ask: "job/once", object: "Pod default/once-*", phrase: "ended with exit code 5", make: jobOfOne("once", `[exit, "5"]`, "backoffLimit: 0, ")},
		{name: "suspended job", ask: "job/once", object: "Job default/once", phrase: "it is suspended", make: jobOfOne("once", "[x]", "suspend: true, ")},
		{name: "job past its deadline", ask: "job/once", object: "Job default/once", phrase: "DeadlineExceeded", make: jobOfOne("once", "[x]", "activeDeadlineSeconds: 5, ")},
		{name: "suspended cron job", ask: "cronjob/nightly", object: "CronJob default/nightly", phrase: "it is suspended", make: "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: nightly}\nspec: {suspend: true, schedule: \"0 3 * * *\", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}}"},
		{name: "cron job whose job fails", ask: "cronjob/often", object: "Pod default/often-*", phrase: "ended with exit code 6", make: "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: often}\nspec: {schedule: \"* * * * *\", jobTemplate: {spec: {backoffLimit: 0, template: {spec: {restartPolicy: Never, containers: [{name: c, image: i, command: [exit, \"6\"]}]}}}}}", then: func(t *testing.T, f *faulty) {
			f.pass(t, 90*time.Second)
		}},
	}
}

func serviceFaults() []fault {
	const service = "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: %s}, ports: [{port: 80, targetPort: %s}]}"
	return []fault{
		{name: "service that selects nothing", ask: "service/web", object: "Service default/web", phrase: "its selector app=webb matches no pod", make: deploying("web", plain) + fmt.Sprintf(service, "webb", "80")},
		{name: "service to a port that nobody has", ask: "service/web", object: "Service default/web", phrase: "no pod has a port that is named http", make: deploying("web", "{name: c, image: i, ports: [{name: web, containerPort: 80}]}") + fmt.Sprintf(service, "web", "http")},
		{name: "service without ready pods", ask: "service/web", object: "Pod default/web-*", phrase: "does not exist in its registry", make: deploying("web", `{name: c, image: "missing.example/x:1"}`) + fmt.Sprintf(service, "web", "80")},
		{name: "service of nothing", ask: "service/web", object: "Deployment default/web", phrase: "it is scaled to zero", make: deployingOf("web", 0, plain, "") + fmt.Sprintf(service, "web", "80")},
		{name: "service without a balancer", ask: "service/web", object: "Service default/web", phrase: "nobody has given it an address", make: deploying("web", plain) + "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80}]}"},
	}
}

func nodeFaults() []fault {
	lose := func(t *testing.T, f *faulty) {
		for _, p := range f.processes {
			p.lost = p.lost || p.node
		}
		f.pass(t, 2*time.Minute)
	}
	return []fault{
		{name: "node lost", ask: "node/n1", object: "Node n1", phrase: "its kubelet has stopped to report", then: lose},
		{name: "pod on a lost node", ask: "deployment/web", object: "Node n*", phrase: "its kubelet has stopped to report", make: deploying("web", plain), then: lose},
		{name: "pod that does not end on a lost node", ask: "pod/p", object: "Node n*", phrase: "its kubelet has stopped to report", make: pod("p", plain, ""), then: func(t *testing.T, f *faulty) {
			lose(t, f)
			f.remove(t, kinds.Pod, "p")
			f.pass(t, 2*time.Minute)
		}},
	}
}

func endingFaults() []fault {
	return []fault{
		{name: "finalizer", ask: "configmap/held", object: "ConfigMap default/held", phrase: "waits for its finalizers: example.com/hold", make: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, finalizers: [example.com/hold]}", then: func(t *testing.T, f *faulty) {
			f.remove(t, kinds.ConfigMap, "held")
			f.pass(t, time.Minute)
		}},
		{name: "namespace that does not go", ask: "namespace/old", object: "ConfigMap old/held", phrase: "example.com/hold", make: "apiVersion: v1\nkind: Namespace\nmetadata: {name: old}", then: func(t *testing.T, f *faulty) {
			f.create(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, namespace: old, finalizers: [example.com/hold]}")
			f.remove(t, kinds.Namespace, "old")
			f.pass(t, time.Minute)
		}},
	}
}
