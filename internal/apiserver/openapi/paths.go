package openapi

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/kinds"
)

type object = map[string]any

// Path of a group version below the root, without the leading slash.
func Path(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.Group + "/" + gv.Version
}

// Paths are the operations on kinds of one group version. model is asked for
// what refers to the schema of a request's or answer's type.
func Paths(ks []*kinds.Kind, model func(any) map[string]any) map[string]any {
	g := &pathMaker{model: model}
	paths := object{}
	for _, k := range ks {
		g.kind(paths, k)
	}
	return paths
}

// GVKExtension says in a document which kind it is about.
func GVKExtension(gvk schema.GroupVersionKind) map[string]any {
	return object{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind}
}

type pathMaker struct {
	model func(any) map[string]any
}

// kind adds the paths of one resource and its subresources.
func (g *pathMaker) kind(paths object, k *kinds.Kind) {
	root := "/" + Path(k.GVK.GroupVersion()) + "/"
	scoped := root
	var params []object
	if k.Namespaced {
		scoped += "namespaces/{namespace}/"
		params = []object{parameter("namespace", "path", "string", "object name and auth scope, such as for teams and projects")}
	}
	var body, list any
	if k.New != nil {
		body = k.New()
	} else {
		body = k.NewBody()
	}
	if k.NewList != nil {
		list = k.NewList()
	}
	collection := object{"parameters": params}
	if serves(k.Verbs, "list") {
		collection["get"] = g.operation(k, "list", k.GVK, nil, list, listParameters())
		if k.Namespaced {
			paths[root+k.Resource] = object{"get": g.operation(k, "list", k.GVK, nil, list, listParameters())}
		}
	}
	if serves(k.Verbs, "create") {
		collection["post"] = g.operation(k, "post", k.GVK, body, body, writeParameters())
	}
	if serves(k.Verbs, "deletecollection") {
		collection["delete"] = g.operation(k, "deletecollection", k.GVK, &metav1.DeleteOptions{}, &metav1.Status{}, append(listParameters(), writeParameters()[0]))
	}
	paths[scoped+k.Resource] = collection
	if !serves(k.Verbs, "get") {
		return
	}
	params = append(params[:len(params):len(params)], parameter("name", "path", "string", "name of the "+k.GVK.Kind))
	item := object{"parameters": params}
	for verb, method := range map[string]string{"get": "get", "update": "put", "patch": "patch", "delete": "delete"} {
		if serves(k.Verbs, verb) {
			item[method] = g.item(k, verb, k.GVK, body)
		}
	}
	paths[scoped+k.Resource+"/{name}"] = item
	for name, sub := range k.Subresources {
		paths[scoped+k.Resource+"/{name}/"+name] = g.subresource(k, sub, params, body)
	}
}

func (g *pathMaker) item(k *kinds.Kind, verb string, gvk schema.GroupVersionKind, body any) object {
	switch verb {
	case "update":
		return g.operation(k, "put", gvk, body, body, writeParameters())
	case "patch":
		p := append(writeParameters(), parameter("force", "query", "boolean", "take over conflicting fields (server-side apply only)"))
		return g.operation(k, "patch", gvk, &metav1.Patch{}, body, p)
	case "delete":
		return g.operation(k, "delete", gvk, &metav1.DeleteOptions{}, &metav1.Status{}, writeParameters()[:1])
	case "create":
		return g.operation(k, "post", gvk, body, body, writeParameters())
	default:
		return g.operation(k, "get", gvk, nil, body, nil)
	}
}

func (g *pathMaker) subresource(k *kinds.Kind, sub kinds.Subresource, params []object, parent any) object {
	body, gvk := parent, k.GVK
	if sub.New != nil {
		body = sub.New()
	}
	if !sub.GVK.Empty() {
		gvk = sub.GVK
	}
	out := object{"parameters": params}
	for _, verb := range sub.Verbs {
		method := map[string]string{"get": "get", "update": "put", "patch": "patch", "create": "post", "delete": "delete"}[verb]
		if method == "" {
			continue
		}
		if sub.Connect {
			out[method] = g.operation(k, "connect", gvk, nil, nil, nil)
			continue
		}
		out[method] = g.item(k, verb, gvk, body)
	}
	return out
}

func (g *pathMaker) operation(k *kinds.Kind, action string, gvk schema.GroupVersionKind, in, out any, params []object) object {
	answer := object{"description": "OK", "content": object{"*/*": object{"schema": object{"type": "string"}}}}
	if out != nil {
		content := object{}
		for _, t := range []string{"application/json", "application/vnd.kubernetes.protobuf", "application/yaml"} {
			content[t] = object{"schema": g.model(out)}
		}
		answer["content"] = content
	}
	op := object{
		"tags":                            []string{k.GVK.Group + "_" + k.GVK.Version},
		"responses":                       object{"200": answer, "401": object{"description": "Unauthorized"}},
		"x-kubernetes-action":             action,
		"x-kubernetes-group-version-kind": GVKExtension(gvk),
	}
	if len(params) > 0 {
		op["parameters"] = params
	}
	if in != nil {
		types := []string{"*/*"}
		if action == "patch" {
			types = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}
			if k.Model != nil { // a custom kind, whose lists have no strategy; kubectl patches as it reads here
				types = slices.Delete(types, 2, 3)
			}
		}
		content := object{}
		for _, t := range types {
			content[t] = object{"schema": g.model(in)}
		}
		op["requestBody"] = object{"content": content, "required": action != "delete" && action != "deletecollection"}
	}
	return op
}

func serves(verbs []string, verb string) bool {
	if verbs == nil {
		return true
	}
	for _, v := range verbs {
		if v == verb {
			return true
		}
	}
	return false
}

func parameter(name, in, kind, text string) object {
	p := object{"name": name, "in": in, "description": text, "schema": object{"type": kind, "uniqueItems": true}}
	if in == "path" {
		p["required"] = true
	}
	return p
}

func writeParameters() []object {
	return []object{
		parameter("dryRun", "query", "string", "All: go through every stage but do not store"),
		parameter("fieldManager", "query", "string", "name of the actor that makes this change"),
		parameter("fieldValidation", "query", "string", "Ignore, Warn or Strict: what to do with unknown and duplicate fields"),
	}
}

func listParameters() []object {
	return []object{
		parameter("labelSelector", "query", "string", "restrict by labels"),
		parameter("fieldSelector", "query", "string", "restrict by fields"),
		parameter("limit", "query", "integer", "at most this many items in one answer"),
		parameter("continue", "query", "string", "token of the previous answer"),
		parameter("resourceVersion", "query", "string", "which versions may be served"),
		parameter("resourceVersionMatch", "query", "string", "Exact or NotOlderThan"),
		parameter("sendInitialEvents", "query", "boolean", "start the watch with the present objects"),
		parameter("allowWatchBookmarks", "query", "boolean", "send BOOKMARK events"),
		parameter("timeoutSeconds", "query", "integer", "end the call after this long"),
		parameter("watch", "query", "boolean", "watch for changes"),
	}
}
