package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/unit"
	"go.yaml.in/yaml/v4"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/registry"
)

const deploy = "../../config/deploy"

// object is a Kubernetes object, walked by name.
type object map[string]any

func (o object) get(path ...string) any {
	var v any = map[string]any(o)
	for _, key := range path {
		m, _ := v.(map[string]any)
		v = m[key]
	}
	return v
}

func list(v any) (all []object) {
	items, _ := v.([]any)
	for _, item := range items {
		m, _ := item.(map[string]any)
		all = append(all, m)
	}
	return all
}

// objects are those that the kustomization names, by kind.
func objects(t *testing.T) map[string]object {
	t.Helper()
	all := make(map[string]object)
	read := func(name string, each func(object)) {
		text, err := os.ReadFile(filepath.Join(deploy, "kubernetes", name))
		if err != nil {
			t.Fatal(err)
		}
		loader, err := yaml.NewLoader(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		for {
			var o map[string]any
			if err := loader.Load(&o); errors.Is(err, io.EOF) {
				return
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			each(o)
		}
	}
	read("kustomization.yaml", func(k object) {
		names, _ := k.get("resources").([]any)
		for _, name := range names {
			read(name.(string), func(o object) { all[o.get("kind").(string)] = o })
		}
	})
	return all
}

// TestKubernetes: the objects fit each other and the command.
func TestKubernetes(t *testing.T) {
	all := objects(t)
	text, _ := all["ConfigMap"].get("data", "sluice.yaml").(string)
	c, err := config.Parse("sluice.yaml", []byte(text), config.Options{Environ: []string{"SLUICE_ADMIN_TOKEN=x"}})
	if err != nil {
		t.Fatal(err)
	}
	_, close, err := gateway.Compile(gateway.Options{Registry: registry.All()}, c)
	if err != nil {
		t.Fatal(err)
	}
	close()

	pod := object(all["Deployment"].get("spec", "template", "spec").(map[string]any))
	container := list(pod.get("containers"))[0]
	var args []string
	for _, arg := range container.get("args").([]any) {
		args = append(args, arg.(string))
	}
	command := runCommand()
	if err := command.ParseFlags(args[1:]); err != nil || args[0] != "run" {
		t.Fatalf("%v: %v", args, err)
	}
	path, _ := command.Flags().GetString("config")
	mount := list(container.get("volumeMounts"))[0]
	if filepath.Dir(path) != mount.get("mountPath") || filepath.Base(path) != "sluice.yaml" {
		t.Errorf("the configuration is at %s, mounted at %v", path, mount.get("mountPath"))
	}
	var wait time.Duration
	for _, name := range []string{"drain-delay", "drain-timeout"} {
		d, err := config.ParseDuration(command.Flags().Lookup(name).Value.String())
		if err != nil {
			t.Fatal(err)
		}
		wait += d
	}
	if grace := pod.get("terminationGracePeriodSeconds").(int); time.Duration(grace)*time.Second <= wait {
		t.Errorf("draining takes up to %v, and the pod is killed after %d s", wait, grace)
	}

	ports := make(map[string]int)
	for _, p := range list(container.get("ports")) {
		ports[p.get("name").(string)] = p.get("containerPort").(int)
	}
	if c.Listeners["main"].Address != ":8080" || ports["http"] != 8080 || c.Admin.Address != ":9901" || ports["admin"] != 9901 {
		t.Errorf("ports %v, configured %s and %s", ports, c.Listeners["main"].Address, c.Admin.Address)
	}
	for _, name := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
		if port, _ := container.get(name, "httpGet", "port").(string); ports[port] == 0 {
			t.Errorf("%s asks port %q", name, port)
		}
		if path := container.get(name, "httpGet", "path"); path != "/readyz" && path != "/livez" {
			t.Errorf("%s asks %v", name, path)
		}
	}
	for _, p := range list(all["Service"].get("spec", "ports")) {
		if target, _ := p.get("targetPort").(string); ports[target] == 0 {
			t.Errorf("the service leads to port %q", target)
		}
	}
	label := all["Deployment"].get("spec", "template", "metadata", "labels", "app.kubernetes.io/name")
	for what, selected := range map[string]any{
		"Deployment": all["Deployment"].get("spec", "selector", "matchLabels", "app.kubernetes.io/name"),
		"Service":    all["Service"].get("spec", "selector", "app.kubernetes.io/name"),
		"PDB":        all["PodDisruptionBudget"].get("spec", "selector", "matchLabels", "app.kubernetes.io/name"),
	} {
		if selected != label || label == nil {
			t.Errorf("%s selects %v, pods are %v", what, selected, label)
		}
	}
	if container.get("securityContext", "readOnlyRootFilesystem") != true || pod.get("securityContext", "runAsNonRoot") != true {
		t.Error("the pod may write or is root")
	}
}

// TestUnit: the command line of the unit is one of the command, and its times fit; where systemd is, it reads both units.
func TestUnit(t *testing.T) {
	text, err := os.ReadFile(deploy + "/sluice.service")
	if err != nil {
		t.Fatal(err)
	}
	options, err := unit.DeserializeOptions(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	option := func(name string) string {
		i := slices.IndexFunc(options, func(o *unit.UnitOption) bool { return o.Name == name })
		if i < 0 {
			t.Fatal("no ", name)
		}
		return options[i].Value
	}
	line := strings.Fields(option("ExecStart"))
	command := runCommand()
	if err := command.ParseFlags(line[2:]); err != nil || line[1] != "run" {
		t.Fatalf("%v: %v", line, err)
	}
	stop, err := time.ParseDuration(option("TimeoutStopSec"))
	if delay, timeout := command.Flags().Lookup("drain-delay").DefValue, command.Flags().Lookup("drain-timeout").DefValue; err != nil || stop <= 35*time.Second || delay != "5s" || timeout != "30s" {
		t.Errorf("stopping may take %v, draining %s and %s", stop, delay, timeout)
	}
	if option("Type") != "notify" || option("NotifyAccess") != "all" {
		t.Error("a successor can not become the main process")
	}

	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	socket, err := os.ReadFile(deploy + "/sluice.socket")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"sluice.service": strings.ReplaceAll(string(text), line[0], self), "sluice.socket": string(socket)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", filepath.Join(dir, "sluice.service"), filepath.Join(dir, "sluice.socket")).CombinedOutput()
	for complaint := range strings.Lines(string(out)) {
		if strings.Contains(complaint, "sluice") {
			t.Errorf("systemd-analyze: %v: %s", err, complaint)
		}
	}
}
