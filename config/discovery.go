package config

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"unicode"
)

// Discovery finds the endpoints of a service and follows them as they come and go; exactly one of `dns`, `file`, `consul`, `etcd` and `kubernetes`. What was found last stays in force while the source can not be asked, with `state.dir` also over a restart. Endpoints that come join with the `slow_start` of the balancer; those that go get no further requests and end those they have.
type Discovery struct {
	// Off: the endpoints are those of `endpoints`.
	Off bool `yaml:"-"`
	// DNS asks name servers for addresses, or for SRV records.
	DNS DiscoveryDNS `yaml:"dns" default:"off"`
	// File reads a list of endpoints from a file, and again whenever it changes.
	File DiscoveryFile `yaml:"file" default:"off"`
	// Consul follows the healthy instances of a service of Consul.
	Consul DiscoveryConsul `yaml:"consul" default:"off"`
	// Etcd follows the keys below a prefix of etcd.
	Etcd DiscoveryEtcd `yaml:"etcd" default:"off"`
	// Kubernetes follows the EndpointSlices of a service of Kubernetes.
	Kubernetes DiscoveryKubernetes `yaml:"kubernetes" default:"off"`
	// MaxLoss is the largest share of its endpoints that a service may lose at once: a set that lacks more is refused, and said so in the log, and the last good one stays in force. So a source that is broken or half empty takes no service down. An empty set is always refused, unless this is 100%.
	MaxLoss Percent `yaml:"max_loss" default:"50%"`
	// AcceptAfter is how long a set that was refused for `max_loss` has to stand before it is taken for the truth, unless it is empty; 0s: for ever.
	AcceptAfter Duration `yaml:"accept_after" default:"5m"`
}

// DiscoveryDNS asks name servers.
type DiscoveryDNS struct {
	// Off: name servers are not asked.
	Off bool `yaml:"-"`
	// Name to look up, as `users.internal` or `_http._tcp.users.internal`. One that ends in a dot is not completed by `search`.
	Name string `yaml:"name" required:"true"`
	// Record to ask for: `a`, `aaaa`, `srv`, or `auto`: SRV for a name that begins with an underscore, else A and AAAA. Of SRV records those of the lowest priority count, with their weights.
	Record string `yaml:"record" enum:"auto|a|aaaa|srv" default:"auto"`
	// Port of the endpoints; SRV records have their own.
	Port int `yaml:"port" default:"0" min:"0" max:"65535"`
	// Servers to ask, `address` or `address:port`, in this order. Default: those of /etc/resolv.conf.
	Servers []string `yaml:"servers"`
	// Search are domains that complete the name. Default: those of /etc/resolv.conf.
	Search []string `yaml:"search"`
	// NDots is how many dots make a name be looked up as it is before it is completed. Default: that of /etc/resolv.conf, else 1.
	NDots int `yaml:"ndots" default:"0" min:"0" max:"15"`
	// Refresh is the longest time until the name is looked up again. It is when the time to live of the records ends, if that is sooner.
	Refresh Duration `yaml:"refresh" default:"30s" min:"10ms"`
	// MinRefresh is the shortest time until the name is looked up again, whatever the time to live.
	MinRefresh Duration `yaml:"min_refresh" default:"1s" min:"10ms"`
	// Timeout of one question.
	Timeout Duration `yaml:"timeout" default:"2s" min:"1ms"`
}

// Shorthand names the setting that a plain text stands for.
func (DiscoveryDNS) Shorthand() string { return "name" }

// DiscoveryFile reads a file.
type DiscoveryFile struct {
	// Off: no file is read.
	Off bool `yaml:"-"`
	// Path of the file: a list as under `endpoints`, in YAML or JSON, with `host:port` beside URLs. A file that is broken, or gone, changes nothing.
	Path string `yaml:"path" required:"true"`
}

// Shorthand names the setting that a plain text stands for.
func (DiscoveryFile) Shorthand() string { return "path" }

// DiscoveryConsul asks the health API of Consul, by blocking queries.
type DiscoveryConsul struct {
	// Off: Consul is not asked.
	Off bool `yaml:"-"`
	// Address of the agent, as a URL.
	Address string `yaml:"address" default:"http://127.0.0.1:8500"`
	// Service by its name in Consul.
	Service string `yaml:"service" required:"true"`
	// Tags that an instance must have, all of them.
	Tags []string `yaml:"tags"`
	// Datacenter to ask for. Default: the agent's own.
	Datacenter string `yaml:"datacenter"`
	// Namespace to ask for, where Consul has them. Default: that of the token.
	Namespace string `yaml:"namespace"`
	// Token to ask with. Default: none.
	Token Secret `yaml:"token"`
	// Warning takes instances with a warning too, with the weight that they have then; else only those that pass every check.
	Warning bool `yaml:"warning" default:"false"`
	// Stale lets any server of Consul answer, also while there is no leader.
	Stale bool `yaml:"stale" default:"true"`
	// Wait is how long a question waits for a change.
	Wait Duration `yaml:"wait" default:"5m" min:"1s" max:"10m"`
	// CA is the file of the authorities to verify the agent against, PEM. Default: the system's.
	CA string `yaml:"ca"`
}

// Shorthand names the setting that a plain text stands for.
func (DiscoveryConsul) Shorthand() string { return "service" }

// DiscoveryEtcd follows keys of etcd. A value is a URL, `host:port`, a block as under `endpoints` in YAML or JSON, or what etcd's own naming writes, `{"Op":0,"Addr":"host:port"}`. Keys under a lease of etcd go with it.
type DiscoveryEtcd struct {
	// Off: etcd is not asked.
	Off bool `yaml:"-"`
	// Servers of etcd, as URLs.
	Servers []string `yaml:"servers" default:"http://127.0.0.1:2379"`
	// Prefix of the keys, each of which holds an endpoint.
	Prefix string `yaml:"prefix" required:"true"`
	// Username to ask as. Default: none.
	Username string `yaml:"username"`
	// Password of the user.
	Password Secret `yaml:"password"`
	// CA is the file of the authorities to verify the servers against, PEM. Default: the system's.
	CA string `yaml:"ca"`
	// Cert is the file of the client certificate, PEM.
	Cert string `yaml:"cert"`
	// Key is the file of the client certificate's key, PEM.
	Key string `yaml:"key"`
	// Timeout of one question.
	Timeout Duration `yaml:"timeout" default:"5s" min:"1ms"`
}

// DiscoveryKubernetes lists and watches the EndpointSlices of a service, which its own account must be allowed to: `get`, `list` and `watch` of `endpointslices` in `discovery.k8s.io`.
type DiscoveryKubernetes struct {
	// Off: Kubernetes is not asked.
	Off bool `yaml:"-"`
	// Service by its name in Kubernetes.
	Service string `yaml:"service" required:"true"`
	// Namespace of the service. Default: the pod's own.
	Namespace string `yaml:"namespace"`
	// Port of the pods, by its name or its number. Default: the only one there is.
	Port string `yaml:"port"`
	// Server is the URL of the API server. Default: that of the cluster the pod runs in.
	Server string `yaml:"server"`
	// TokenFile holds the token to ask with; it is read anew for each question, since it is replaced. `off`: none is sent.
	TokenFile string `yaml:"token_file" default:"/var/run/secrets/kubernetes.io/serviceaccount/token"`
	// CA is the file of the authorities to verify the server against, PEM. Default: the pod's, where there is one, else the system's.
	CA string `yaml:"ca"`
}

// Shorthand names the setting that a plain text stands for.
func (DiscoveryKubernetes) Shorthand() string { return "service" }

// Source names what finds the endpoints, "" for nothing.
func (d *Discovery) Source() string {
	if sources := d.sources(); len(sources) > 0 {
		return sources[0]
	}
	return ""
}

func (d *Discovery) sources() (names []string) {
	if d.Off {
		return nil
	}
	for _, s := range [...]struct {
		name string
		off  bool
	}{{"dns", d.DNS.Off}, {"file", d.File.Off}, {"consul", d.Consul.Off}, {"etcd", d.Etcd.Off}, {"kubernetes", d.Kubernetes.Off}} {
		if !s.off {
			names = append(names, s.name)
		}
	}
	return names
}

// discovery checks where the endpoints of a service are to be found.
func (k *checker) discovery(path string, s *Service) {
	d := &s.Discovery
	if n := k.c.tree.locate(path); !d.Off && n.kind != scalar && len(n.fields) == 0 {
		*d = Discovery{Off: true} // nothing was asked for
	}
	if d.Off {
		return
	}
	switch sources := d.sources(); {
	case len(sources) == 0:
		k.fail(path, "nothing finds endpoints; write one of dns, file, consul, etcd, kubernetes")
	case len(sources) > 1:
		k.fail(path, "%s find endpoints; keep one of them", strings.Join(sources, " and "))
	}
	if len(s.Endpoints) > 0 {
		k.fail(path, "endpoints stand here and are found elsewhere too; keep one of endpoints and discovery")
	}
	if !d.DNS.Off {
		k.discoveryDNS(path+".dns", &d.DNS)
	}
	if !d.Consul.Off {
		k.serverURL(path+".consul.address", d.Consul.Address)
	}
	if !d.Etcd.Off {
		if len(d.Etcd.Servers) == 0 {
			k.fail(path+".etcd.servers", "there is no server; write [http://127.0.0.1:2379]")
		}
		for i, server := range d.Etcd.Servers {
			k.serverURL(joinIndex(path+".etcd.servers", i), server)
		}
		if (d.Etcd.Cert == "") != (d.Etcd.Key == "") {
			k.fail(path+".etcd", "a client certificate is cert and key together")
		}
	}
	if !d.Kubernetes.Off {
		if d.Kubernetes.Server != "" {
			k.serverURL(path+".kubernetes.server", d.Kubernetes.Server)
		}
		for _, name := range [...]struct{ key, value string }{{"service", d.Kubernetes.Service}, {"namespace", d.Kubernetes.Namespace}} {
			if name.value != "" && (!isHostName(name.value) || strings.ContainsAny(name.value, "._")) {
				k.fail(path+".kubernetes."+name.key, "%q is no name of Kubernetes: lower case letters, digits and dashes", name.value)
			}
		}
	}
}

func (k *checker) discoveryDNS(path string, d *DiscoveryDNS) {
	name := strings.TrimSuffix(d.Name, ".")
	if d.Name != "" && !isHostName(name) {
		k.fail(path+".name", "%q is no name to look up; write users.internal or _http._tcp.users.internal", d.Name)
	}
	switch srv := d.IsSRV(); {
	case srv && d.Port != 0:
		k.fail(path+".port", "SRV records have ports of their own; leave it out")
	case !srv && d.Port == 0:
		k.fail(path+".port", "addresses have no port; write the port of the endpoints, as port: 8080")
	}
	for i, server := range d.Servers {
		host := server
		if h, _, err := net.SplitHostPort(server); err == nil {
			host = h
		}
		if net.ParseIP(strings.Trim(host, "[]")) == nil || !isAuthority(server) {
			k.fail(joinIndex(path+".servers", i), "%q is no address; write 10.0.0.53 or 10.0.0.53:53", server)
		}
	}
	for i, domain := range d.Search {
		if !isHostName(strings.TrimSuffix(domain, ".")) {
			k.fail(joinIndex(path+".search", i), "%q is no domain", domain)
		}
	}
	if d.MinRefresh > d.Refresh {
		k.fail(path+".min_refresh", "the shortest time, %s, is longer than refresh, %s", FormatDuration(d.MinRefresh), FormatDuration(d.Refresh))
	}
}

// IsSRV tells whether SRV records are asked for.
func (d *DiscoveryDNS) IsSRV() bool {
	return d.Record == "srv" || d.Record == "auto" && strings.HasPrefix(d.Name, "_")
}

// serverURL checks the address of what is asked for endpoints.
func (k *checker) serverURL(path, raw string) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || !isAuthority(u.Host) || u.Scheme != "https" && u.Scheme != "http":
		k.fail(path, "%q is no URL; write http://host:port", redactURL(raw))
	case u.User != nil:
		k.fail(path, "%q holds a user, which is not sent", redactURL(raw))
	case u.RawQuery != "" || u.Fragment != "":
		k.fail(path, "%q has a query or a fragment; write http://host:port", redactURL(raw))
	}
}

// DiscoveredURL makes the URL of an endpoint that was found as `host:port` or as a URL, for a service of this protocol;
// the error says what is wrong with it.
func DiscoveredURL(found, protocol string) (string, error) {
	if !strings.Contains(found, "://") && !strings.HasPrefix(found, "unix:") {
		host, port, err := net.SplitHostPort(found)
		if err != nil || host == "" {
			return "", fmt.Errorf("%q is neither host:port nor a URL", printable(found))
		}
		scheme := "http"
		if protocol == "https" || protocol == "grpcs" {
			scheme = "https"
		}
		found = scheme + "://" + net.JoinHostPort(host, port)
	}
	if problem := endpointProblem(found, protocol); problem != "" {
		return "", fmt.Errorf("%s", problem)
	}
	return found, nil
}

// printable keeps what a source of endpoints says from breaking a log line.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) > 100 {
		s = strings.ToValidUTF8(s[:100], "") + "…"
	}
	return strings.Trim(strconv.Quote(s), `"`)
}
