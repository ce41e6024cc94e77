// Package config is the vocabulary of the gateway's configuration and the only way in:
// Load and Parse return either a Config in which every reference, address and pattern is
// known to be good, or every mistake at once, each with file, line, column, path and what
// would be right. What the model does not know is never ignored.
//
// Settings come from flags, environment, file and defaults, in this order. The settings
// of policies and of most actions stay undecoded Blocks that the packages owning them
// decode with the same rules.
//
// The struct tags of the model are its only description: the decoder, the JSON Schema and
// the reference documentation read the same ones.
//
//	yaml:"name"      the key; "-" hides a field
//	default:"text"   the value when left out; for a block "off"; for a list items with commas
//	enum:"a|b"       the only values, of a scalar or of each element
//	required:"true"  must be there and not be empty
//	min, max         bounds of a number, a duration or a size, of each element in a list
//	key:"true"       filled with the block's own name in the map it stands in
//	template:"true"  ${lower.case} templates are kept (see expand.go); policies keep them anyway
//
// A block type with a field `Off bool` tagged yaml:"-" may be written `off` or `false`: then
// Off is true and every other field is zero. `on`, `true` and an empty value mean the defaults.
package config

// Config is a whole configuration, checked. It is read-only: generations of the gateway
// share parts of it.
type Config struct {
	// Version of the configuration's format.
	Version int `yaml:"version" default:"1" min:"1" max:"1"`
	// Listeners are the sockets that clients connect to, by name. Without any there is one, `main`, on `:8080`.
	Listeners map[string]*Listener `yaml:"listeners"`
	// Admin is the operators' listener: health, metrics and the API. `off` closes it.
	Admin Admin `yaml:"admin"`
	// TrustedProxies are the networks whose X-Forwarded-For and Forwarded are believed. Default: nobody.
	TrustedProxies []CIDR `yaml:"trusted_proxies"`
	// Limits bound what a single client can occupy.
	Limits Limits `yaml:"limits"`
	// State is where what has to outlive the process is kept.
	State State `yaml:"state"`
	// Services are the backends, by name.
	Services map[string]*Service `yaml:"services"`
	// Routes choose what happens to a request, by name. The most specific match wins, never the order of the file.
	Routes map[string]*Route `yaml:"routes"`
	// Policies apply to every route, unless the route, its service or the consumer has the same policy.
	Policies Policies `yaml:"policies"`
	// Plans are named sets of policies that consumers and tenants take, written as under `policies`: `gold: {rate_limit: {requests: 1000, per: 1m}}`. Only policies of the stages after Authenticate. A limit by `consumer`, which is the default, is each taker's own.
	Plans map[string]Policies `yaml:"plans"`
	// Tenants are the parties that share this gateway, by name. A request is of its consumer's tenant; where the caller is no consumer with a tenant it is of the tenant whose host it asks. A consumer of one tenant on a host of another is refused with 403. Of each policy the block of the consumer goes first, then that of its plan, of the tenant, of the tenant's plan, of the route, of the service, and the global one. Buckets, counts and stored answers of one tenant are no other's.
	Tenants map[string]*Tenant `yaml:"tenants"`
	// Consumers are the known callers with their credentials, by name.
	Consumers map[string]*Consumer `yaml:"consumers"`
	// Teams say what the files of a team may do, by the name of the team.
	Teams map[string]*Team `yaml:"teams"`
	// Sources are where routes come from beside the files.
	Sources Sources `yaml:"sources"`
	// Compatibility `kong` makes error bodies, headers and prefix matching those of Kong, for converted files.
	Compatibility string `yaml:"compatibility" enum:"none|kong" default:"none"`

	tree    *node
	files   []string
	order   []string // of the listeners, as in the file
	remarks Errors
}

// Remarks are what whoever runs the configuration is to be told, though it is not wrong: of a file in another format, what
// is left out of it.
func (c *Config) Remarks() Errors { return c.remarks }

// Tree is what the configuration was decoded from.
func (c *Config) Tree() Tree { return Tree{c.tree} }

// Files returns every file that was read, with those of ${file:PATH}: what a watcher has
// to watch.
func (c *Config) Files() []string { return c.files }

// ListenerNames returns the names of the listeners in the order of the file.
func (c *Config) ListenerNames() []string { return c.order }

// Listener is a socket that clients connect to.
type Listener struct {
	// Name of the listener.
	Name string `yaml:"-" key:"true"`
	// Address to listen on: `host:port`, `:port` or `unix:/path`.
	Address string `yaml:"address" required:"true"`
	// TLS ends TLS here. Off when left out.
	TLS ListenerTLS `yaml:"tls" default:"off"`
	// HTTP2 offers h2 by ALPN beside http/1.1; it needs `tls`.
	HTTP2 bool `yaml:"http2" default:"true"`
	// H2C accepts HTTP/2 without TLS, by prior knowledge.
	H2C bool `yaml:"h2c"`
	// HTTP3 serves HTTP/3 on the UDP port of the same number, beside TCP; it needs `tls`. Early data (0-RTT) is not accepted: whoever has seen it can send it again. Off when left out.
	HTTP3 HTTP3 `yaml:"http3" default:"off"`
	// ProxyProtocol is whether connections begin with a header of the PROXY protocol, version 1 or 2, which names the client. It is believed from `trusted_proxies` alone. `accept` takes one when there is one; `require` closes connections without a valid one, and those of others.
	ProxyProtocol string `yaml:"proxy_protocol" enum:"off|accept|require" default:"off"`
	// Engine that moves the bytes: `fasthttp`, its server, or `loop`, a goroutine for each connection that holds buffers
	// only while a request is there. A change takes effect for connections that are opened then.
	Engine string `yaml:"engine" enum:"fasthttp|loop" default:"fasthttp"`
}

// HTTP3 is HTTP/3 beside HTTP/1.1 and HTTP/2, with the same certificates; answers over those tell
// of it in Alt-Svc.
type HTTP3 struct {
	// Off: there is no UDP port, and Alt-Svc is not sent.
	Off bool `yaml:"-"`
	// AdvertisedPort is the port that Alt-Svc tells clients, where another one is mapped to this listener's; 0: the listener's own.
	AdvertisedPort int `yaml:"advertised_port" default:"0" min:"0" max:"65535"`
}

// ListenerTLS is how a listener ends TLS.
type ListenerTLS struct {
	// Off: the listener speaks plain text.
	Off bool `yaml:"-"`
	// Certificates to choose from by the name the client asks for; files that change are loaded again.
	Certificates []Certificate `yaml:"certificates"`
	// ACME obtains certificates from an authority and renews them in time. The authority makes sure that the names are this gateway's by connecting to them on port 443 or 80: what listens there has to be this gateway, or to pass connections on to it unchanged. While there is no certificate everything else is served. Off when left out, or empty.
	ACME ACME `yaml:"acme" default:"off"`
	// MinVersion is the oldest TLS version accepted.
	MinVersion string `yaml:"min_version" enum:"1.2|1.3" default:"1.2"`
	// ClientAuth asks clients for certificates.
	ClientAuth ClientAuth `yaml:"client_auth"`
	// HSTS is the max-age of Strict-Transport-Security; 0s sends none.
	HSTS Duration `yaml:"hsts" default:"0s"`
}

// Certificate is a certificate chain with its key.
type Certificate struct {
	// Cert is the file of the chain, PEM, or the PEM itself.
	Cert string `yaml:"cert" required:"true"`
	// Key is the file of the private key, PEM, or the PEM itself.
	Key string `yaml:"key" required:"true"`
	// OCSP is the file of a response to staple.
	OCSP string `yaml:"ocsp"`
}

// ACME obtains certificates from an authority and renews them.
type ACME struct {
	// Off: no certificate is obtained.
	Off bool `yaml:"-"`
	// Email of the account, for the authority's messages. Default: none is given.
	Email string `yaml:"email"`
	// Domains to obtain certificates for, one for each, and for no other name. Wildcards are not obtained: they would take changes of the DNS. A valid certificate obtained for a name comes before those of `certificates`, which serve until there is one.
	Domains []string `yaml:"domains"`
	// Directory is the URL of the authority's directory. Naming one, or using Let's Encrypt's, is agreeing to its terms of service.
	Directory string `yaml:"directory" default:"https://acme-v02.api.letsencrypt.org/directory"`
	// CA is the file of the authorities that the directory's own certificate is verified against, PEM. Default: those of the system.
	CA string `yaml:"ca"`
	// Storage is the folder for account, keys and certificates. It is made when it is not there; nobody else can read what is in it. Gateways that share it share the certificates, and answer each other's challenges.
	Storage string `yaml:"storage" default:"/var/lib/sluice/acme"`
	// Challenges that may be used: `tls-alpn-01` is answered on this listener and wants port 443, `http-01` on listeners without `tls` and wants port 80. Where one fails the other is tried.
	Challenges []string `yaml:"challenges" enum:"tls-alpn-01|http-01" default:"tls-alpn-01,http-01"`
}

// ClientAuth asks clients for certificates.
type ClientAuth struct {
	// Mode: `request` verifies a certificate when one is sent, `require` refuses clients without.
	Mode string `yaml:"mode" enum:"none|request|require" default:"none"`
	// CA is the file of the authorities to verify against, PEM.
	CA string `yaml:"ca"`
}

// Admin is the operators' listener.
type Admin struct {
	// Off: there is no admin listener.
	Off bool `yaml:"-"`
	// Address to listen on: `host:port` or `unix:/path`. Without a token it must be a loopback address.
	Address string `yaml:"address" default:"127.0.0.1:9901" required:"true"`
	// Token that writes and secret-bearing reads must carry as `Authorization: Bearer`.
	Token Secret `yaml:"token"`
}

// Limits bound what a single client can occupy.
type Limits struct {
	// MaxHeaderSize bounds the request line and headers together; more gets 431.
	MaxHeaderSize Size `yaml:"max_header_size" default:"32KiB" min:"1KiB" max:"16MiB"`
	// MaxBodySize bounds a request body; more gets 413. `streaming: true` on a route lifts it there.
	MaxBodySize Size `yaml:"max_body_size" default:"10MiB"`
	// HeaderTimeout is the time a client has for a whole request head.
	HeaderTimeout Duration `yaml:"header_timeout" default:"10s" min:"1ms"`
	// StallTimeout ends an exchange in which no byte moved for this long, in either direction. There is no absolute timeout of a body.
	StallTimeout Duration `yaml:"stall_timeout" default:"30s" min:"1ms"`
	// IdleTimeout closes a client's connection that waits for its next request.
	IdleTimeout Duration `yaml:"idle_timeout" default:"75s" min:"1ms"`
	// MaxConnections bounds open client connections of each listener; 0: no limit. Those that wait for a request make room for new ones; where none does, a new one gets 503, or over TLS is closed.
	MaxConnections int `yaml:"max_connections" default:"0" min:"0"`
	// MaxConnectionsPerIP bounds open connections of one client address; 0: no limit. One more gets 503, or over TLS is closed.
	MaxConnectionsPerIP int `yaml:"max_connections_per_ip" default:"0" min:"0"`
}

// State is where what has to outlive the process is kept.
type State struct {
	// Dir is the folder for what outlives the process: API keys made at run time, revoked tokens, quotas with `durable: true`, usage, who has changed what through the admin listener (`audit/admin.log`), and what links to consumers' own pages are signed with (`links.key`, made with the first link; gateways with folders of their own take their own links alone, whatever else they share). Without it those are refused, but for revoked tokens, which are forgotten with the process. Weights and rollouts of splits are kept in it as well. It is made when it is not there; one process writes in it at a time, and another one, as while a new binary takes over, reads keys in it and refuses to change them.
	Dir string `yaml:"dir"`
	// Usage is where it is kept who uses what. It is on with `dir`, or with `store: postgres`.
	Usage Usage `yaml:"usage"`
	// Redis shares limits, quotas, idempotency keys, purges of caches and revoked tokens between gateways, and with `dir`, which each has for itself, API keys made at run time: a key that is made or revoked at one is at the others within a second. Off when left out: they live in memory.
	Redis Redis `yaml:"redis" default:"off"`
}

// Usage is where it is kept how many requests, bytes and which latencies every consumer, tenant, route and version has had, by minute, hour and day, for `GET /api/usage`. Requests do not wait for it. A gateway
// that is killed loses what it has counted since it wrote last; the answer names such gaps. While the store is gone what is counted waits in memory; when there is much of it, told apart by tenant, route and hour alone.
type Usage struct {
	// Off: usage is not kept. What the last minutes were like is in memory all the same.
	Off bool `yaml:"-"`
	// Store: `sqlite`, in `usage.db` of `state.dir`, or `postgres`, which several gateways can share.
	Store string `yaml:"store" enum:"sqlite|postgres" default:"sqlite"`
	// DSN says where PostgreSQL is: `postgres://user:password@host:5432/database`. Its user has to be allowed to make tables.
	DSN Secret `yaml:"dsn"`
	// Instance names this gateway among those that share the store; it has to be the same after a restart. Default: the name of the machine.
	Instance string `yaml:"instance"`
	// Flush is how often what was counted is written.
	Flush Duration `yaml:"flush" default:"10s" min:"100ms" max:"1m"`
	// MaxKeys bounds how many combinations of consumer, tenant, route and version are counted apart on each core (on up to 8 of them), at about 1 KiB each. The consumers of the rest are counted together, as `other`.
	MaxKeys int `yaml:"max_keys" default:"10000" min:"100" max:"1000000"`
	// Retention is how long usage is kept.
	Retention UsageRetention `yaml:"retention"`
}

// UsageRetention is how long usage is kept, by the length of the steps it is told apart by.
type UsageRetention struct {
	// Minutes are kept this long.
	Minutes Duration `yaml:"minutes" default:"2d" min:"1h"`
	// Hours are kept this long.
	Hours Duration `yaml:"hours" default:"90d" min:"1d"`
	// Days are kept this long.
	Days Duration `yaml:"days" default:"1095d" min:"1d"`
}

// Kept tells whether usage is kept with this state.
func (s *State) Kept() bool { return !s.Usage.Off && (s.Dir != "" || s.Usage.Store == "postgres") }

// Redis is a store that gateways share: Redis, Valkey, or another server that speaks its protocol and runs its scripts. Without it a gateway
// goes on alone, as `on_failure` says; it starts without it too.
type Redis struct {
	// Off: state lives in memory.
	Off bool `yaml:"-"`
	// Addresses, `host:port`: of the server, of some nodes of a cluster, which is found out by asking, or with `sentinel` of the sentinels.
	Addresses []string `yaml:"addresses" required:"true"`
	// Username to authenticate with. Default: that of a server with a password alone.
	Username string `yaml:"username"`
	// Password to authenticate with.
	Password Secret `yaml:"password"`
	// DB is the number of the database; a cluster has 0 alone.
	DB int `yaml:"db" default:"0" min:"0" max:"65535"`
	// TLS encrypts the connection. Off when left out; `on` verifies the server by the system's authorities.
	TLS RedisTLS `yaml:"tls" default:"off"`
	// Sentinel finds the server by asking sentinels. Off when left out.
	Sentinel RedisSentinel `yaml:"sentinel" default:"off"`
	// Prefix of all keys. Gateways with the same prefix share their state.
	Prefix string `yaml:"prefix" default:"sluice" required:"true"`
	// Timeout of a call, and how long a request waits at most where it has to. A store that answers nothing in time for four of these counts as gone.
	Timeout Duration `yaml:"timeout" default:"50ms" min:"1ms" max:"10s"`
	// OnFailure is what happens while the store is gone. `local`: each gateway has its part of every limit and quota, by how many there were, and remembers idempotency keys by itself; `allow`: nothing is limited, and keys are not looked at; `deny`: what would have to be counted is refused with 503.
	OnFailure string `yaml:"on_failure" enum:"local|allow|deny" default:"local"`
}

// RedisTLS is how the store is spoken to over TLS.
type RedisTLS struct {
	// Off: the connection is plain text.
	Off bool `yaml:"-"`
	// CA is the file of the authorities to verify against, PEM, or the PEM itself. Default: the system's.
	CA string `yaml:"ca"`
	// Cert is the file of the client certificate, PEM, or the PEM itself.
	Cert string `yaml:"cert"`
	// Key is the file of the client certificate's key, PEM, or the PEM itself.
	Key string `yaml:"key"`
	// ServerName to verify and to send by SNI. Default: the host of the address.
	ServerName string `yaml:"server_name"`
	// InsecureSkipVerify accepts any certificate.
	InsecureSkipVerify bool `yaml:"insecure_skip_verify" default:"false"`
}

// RedisSentinel finds the server by asking sentinels.
type RedisSentinel struct {
	// Off: the addresses are those of servers.
	Off bool `yaml:"-"`
	// Master is the name under which the sentinels watch the server.
	Master string `yaml:"master" required:"true"`
	// Username to authenticate to sentinels with.
	Username string `yaml:"username"`
	// Password to authenticate to sentinels with.
	Password Secret `yaml:"password"`
}
