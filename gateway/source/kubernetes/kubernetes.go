// Package kubernetes follows the HTTPRoutes and Ingresses that are meant for this gateway, at the API server.
package kubernetes

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"sluice/config"
	"sluice/gateway/kube"
	"sluice/gateway/source"
)

// Watches are those that the settings ask for: one for each kind in each namespace.
func Watches(s *config.SourceKubernetes) (watches []source.Watch) {
	if s.Off {
		return nil
	}
	namespaces := s.Namespaces
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	settings := kube.Settings{Server: s.Server, TokenFile: s.TokenFile, CA: s.CA}
	for _, r := range s.Resources {
		for _, namespace := range namespaces {
			w := &watch{settings: settings, of: kinds[r]}
			w.of.Namespace = namespace
			identity := []any{settings}
			switch r {
			case "httproutes":
				w.gatewayNamespace, w.gateway, _ = strings.Cut(s.Gateway, "/")
				if w.gateway == "" {
					w.gatewayNamespace, w.gateway = "", s.Gateway
				}
				identity = append(identity, s.Gateway)
			default:
				w.class = s.IngressClass
				identity = append(identity, s.IngressClass)
			}
			where := cmp.Or(namespace, "all namespaces")
			w.name = "kubernetes " + r + " in " + where
			watches = append(watches, source.Watch{
				Name: w.name, Source: "kubernetes", Identity: fmt.Sprintf("%+v", identity),
				Where: r + " in " + where + " at " + settings.Where(), Run: w.run,
			})
		}
	}
	return watches
}

// kinds of objects by their resource.
var kinds = map[string]kube.Objects{
	"httproutes": {Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"},
	"ingresses":  {Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"},
}

// singular is what one object of a resource is called.
var singular = map[string]string{"httproutes": "httproute", "ingresses": "ingress"}

type watch struct {
	name     string
	settings kube.Settings
	of       kube.Objects
	// What an object has to name to be meant: the Gateway of an HTTPRoute, the class of an Ingress.
	gatewayNamespace, gateway, class string
}

func (w *watch) run(ctx context.Context, tell func(map[string]config.Object)) error {
	client, err := kube.Connect(w.settings)
	if err != nil {
		return err
	}
	defer client.Close()
	t := &telling{w: w, tell: tell, client: client, ports: make(map[kube.Name]map[string]int)}
	ctx, cancel := context.WithCancel(ctx)
	defer t.services.Wait()
	defer cancel()
	return kube.Watch(ctx, client, w.of, func(all map[kube.Name]*object) { t.objects(ctx, all) })
}

// object is an HTTPRoute or an Ingress, as far as it is looked at here. What is not of this gateway may be anything.
type object struct {
	Metadata struct {
		CreationTimestamp string            `json:"creationTimestamp"`
		Annotations       map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec json.RawMessage `json:"spec"`

	read, meant bool
	text        []byte
	named       bool // it names ports of services, which the text has by their numbers, as far as these were known then
}

// read returns the object as it is translated, without what changes and means nothing, if it is meant for this gateway.
func (w *watch) read(name kube.Name, o *object, port func(service, name string) int) (text []byte, meant bool) {
	metadata := map[string]any{"name": name.Name, "namespace": name.Namespace}
	spec := o.Spec
	kind := "HTTPRoute"
	if w.gateway != "" {
		if spec, meant = w.attached(name.Namespace, spec); !meant {
			return nil, false
		}
	} else {
		kind = "Ingress"
		if w.class != "*" && w.class != ingressClass(o) {
			return nil, false
		}
		told := make(map[string]string)
		for key, value := range o.Metadata.Annotations {
			if strings.Contains(key, "ingress") && !strings.HasPrefix(key, "kubectl.") {
				told[key] = value
			}
		}
		if len(told) > 0 {
			metadata["annotations"] = told
		}
		spec, o.named = numbered(spec, port)
	}
	if len(spec) == 0 {
		spec = json.RawMessage("null")
	}
	text, err := json.Marshal(map[string]any{"apiVersion": w.of.Group + "/" + w.of.Version, "kind": kind, "metadata": metadata, "spec": spec})
	return text, err == nil
}

// attached keeps of an HTTPRoute's parents those that are this gateway; it is not meant if there is none.
func (w *watch) attached(namespace string, spec json.RawMessage) (json.RawMessage, bool) {
	var fields map[string]json.RawMessage
	var refs []json.RawMessage
	if json.Unmarshal(spec, &fields) != nil || json.Unmarshal(fields["parentRefs"], &refs) != nil {
		return nil, false // it names no gateway
	}
	refs = slices.DeleteFunc(refs, func(raw json.RawMessage) bool {
		ref := struct{ Group, Kind, Namespace, Name string }{"gateway.networking.k8s.io", "Gateway", namespace, ""}
		return json.Unmarshal(raw, &ref) != nil || ref.Group != "gateway.networking.k8s.io" || ref.Kind != "Gateway" ||
			w.gateway != "*" && ref.Name != w.gateway || w.gatewayNamespace != "" && ref.Namespace != w.gatewayNamespace
	})
	if len(refs) == 0 {
		return nil, false
	}
	var err error
	if fields["parentRefs"], err = json.Marshal(refs); err != nil {
		return nil, false
	}
	text, err := json.Marshal(fields)
	return text, err == nil
}

func ingressClass(o *object) string {
	var spec struct {
		Class string `json:"ingressClassName"`
	}
	if err := json.Unmarshal(o.Spec, &spec); err == nil && spec.Class != "" {
		return spec.Class
	}
	return o.Metadata.Annotations["kubernetes.io/ingress.class"]
}
