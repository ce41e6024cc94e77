package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"

	"sluice/config"
	"sluice/gateway/kube"
)

// telling is one run of a watch. It tells objects, and again when a port that one of them names has got another number.
type telling struct {
	w      *watch
	tell   func(map[string]config.Object)
	client *kube.Client
	// services is the goroutine that follows services, from when the first object names a port.
	services sync.WaitGroup

	mu    sync.Mutex
	meant map[kube.Name]*object
	ports map[kube.Name]map[string]int // by service, the numbers of its ports
	first chan struct{}                // closed once services were listed, or could not be; nil while nobody has to know them
}

// objects takes the whole set, and tells it.
func (t *telling) objects(ctx context.Context, all map[kube.Name]*object) {
	meant := make(map[kube.Name]*object)
	named := false
	t.mu.Lock()
	for name, o := range all {
		if !o.read {
			// Once: the set is told whole for each change of a single one.
			o.read = true
			o.text, o.meant = t.w.read(name, o, t.portsOf(name.Namespace))
		}
		if o.meant {
			meant[name] = o
			named = named || o.named
		}
	}
	t.meant = meant
	first := t.first
	if named && first == nil {
		first = make(chan struct{})
		t.first = first
		t.services.Go(func() { t.follow(ctx) })
	}
	t.mu.Unlock()
	if named {
		select {
		case <-first:
		case <-ctx.Done():
			return
		case <-time.After(patience):
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tellAll()
}

const (
	// patience is how long objects wait for the ports they name.
	patience = 2 * time.Second
	// firstPause and lastPause lie between two tries to list services.
	firstPause = 200 * time.Millisecond
	lastPause  = 30 * time.Second
)

// tellAll tells what is meant. t.mu is held, so that what is told last is the newest.
func (t *telling) tellAll() {
	told := make(map[string]config.Object, len(t.meant))
	what := singular[t.w.of.Resource]
	for name, o := range t.meant {
		told[fmt.Sprintf("kubernetes %s %s/%s", what, name.Namespace, name.Name)] = config.Object{
			Source: "kubernetes", Watch: t.w.name, Since: o.Metadata.CreationTimestamp, Data: o.text,
		}
	}
	t.tell(told)
}

// service is what of a Service is looked at.
type service struct {
	Spec struct {
		Ports []struct {
			Name string `json:"name"`
			Port int    `json:"port"`
		} `json:"ports"`
	} `json:"spec"`
}

// follow watches services until ctx is done. While they can not be asked, what was known of them stays.
func (t *telling) follow(ctx context.Context) {
	answered := sync.OnceFunc(func() { close(t.first) })
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		began := time.Now()
		_ = kube.Watch(ctx, t.client, kube.Objects{Version: "v1", Resource: "services", Namespace: t.w.of.Namespace}, func(all map[kube.Name]*service) {
			t.know(all)
			answered()
		})
		answered()
		if time.Since(began) > lastPause {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// know takes the services there are, and tells the objects anew that it makes a difference to.
func (t *telling) know(all map[kube.Name]*service) {
	ports := make(map[kube.Name]map[string]int, len(all))
	for name, s := range all {
		for _, p := range s.Spec.Ports {
			if p.Name != "" {
				if ports[name] == nil {
					ports[name] = make(map[string]int, len(s.Spec.Ports))
				}
				ports[name][p.Name] = p.Port
			}
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if maps.EqualFunc(t.ports, ports, maps.Equal[map[string]int, map[string]int]) {
		return
	}
	t.ports = ports
	changed := false
	for name, o := range t.meant {
		if !o.named {
			continue
		}
		before := o.text
		o.text, _ = t.w.read(name, o, t.portsOf(name.Namespace))
		changed = changed || !bytes.Equal(before, o.text)
	}
	if changed {
		t.tellAll()
	}
}

// portsOf gives numbers of ports of a namespace, 0 where it is not known. t.mu is held.
func (t *telling) portsOf(namespace string) func(service, name string) int {
	return func(service, name string) int { return t.ports[kube.Name{Namespace: namespace, Name: service}][name] }
}

// numbered puts numbers in the place of the names of ports in the spec of an Ingress, where they are known, and says whether it
// has names.
func numbered(spec json.RawMessage, port func(service, name string) int) (with json.RawMessage, named bool) {
	if !bytes.Contains(spec, []byte(`"name"`)) {
		return spec, false
	}
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(spec))
	d.UseNumber()
	if d.Decode(&fields) != nil {
		return spec, false
	}
	found := false
	backend := func(of any) {
		service := block(block(of)["service"])
		name, _ := block(service["port"])["name"].(string)
		if name == "" {
			return
		}
		named = true
		if called, _ := service["name"].(string); port(called, name) > 0 {
			service["port"] = map[string]any{"number": port(called, name)}
			found = true
		}
	}
	backend(fields["defaultBackend"])
	rules, _ := fields["rules"].([]any)
	for _, rule := range rules {
		paths, _ := block(block(rule)["http"])["paths"].([]any)
		for _, path := range paths {
			backend(block(path)["backend"])
		}
	}
	if !found {
		return spec, named
	}
	text, err := json.Marshal(fields)
	if err != nil {
		return spec, named
	}
	return text, named
}

func block(v any) map[string]any {
	fields, _ := v.(map[string]any)
	return fields
}
