package config

import "time"

// Consumer is a known caller: its credentials, and what applies to it wherever it calls.
type Consumer struct {
	// Name of the consumer; X-Consumer-ID tells it to backends.
	Name string `yaml:"-" key:"true"`
	// Tenant the consumer belongs to. Its requests are the tenant's, whatever host they ask; on a host of another tenant they are refused.
	Tenant string `yaml:"tenant"`
	// Plan whose policies apply, unless the consumer has the same policy itself.
	Plan string `yaml:"plan"`
	// Groups for `authorize`; X-Consumer-Groups tells them to backends.
	Groups []string `yaml:"groups"`
	// APIKeys for the policy `api_key`.
	APIKeys []APIKey `yaml:"api_keys"`
	// JWT are the issuers whose tokens identify this consumer, for the policy `jwt`.
	JWT []JWTCredential `yaml:"jwt"`
	// BasicAuth are user names and passwords for the policy `basic_auth`.
	BasicAuth []BasicCredential `yaml:"basic_auth"`
	// HMAC are user names and secrets for the policy `hmac_auth`.
	HMAC []HMACCredential `yaml:"hmac"`
	// APIVersion is the version that the consumer's requests speak which name none, for the policy `api_version`.
	APIVersion string `yaml:"api_version"`
	// Policies that apply instead of those of route, service and gateway; only of stages after Authenticate.
	Policies Policies `yaml:"policies"`
	// Kong is what a service is told of the consumer in compatibility with Kong; it needs `compatibility: kong`.
	Kong *ConsumerKong `yaml:"kong"`
}

// APIKey is the hash of a key. The key itself stands nowhere.
type APIKey struct {
	// ID names the key in logs and in the API.
	ID string `yaml:"id"`
	// Hash of the key: `sha256:` and 64 hexadecimal digits.
	Hash string `yaml:"hash" required:"true" secret:"true"`
	// Expires: a day or a time from which on the key is refused. Default: never.
	Expires time.Time `yaml:"expires"`
}

// JWTCredential verifies the tokens of one issuer as this consumer's.
type JWTCredential struct {
	// Issuer is the `iss` claim of the tokens.
	Issuer string `yaml:"issuer" required:"true"`
	// Algorithms accepted. Default: those of the policy that suit the key.
	Algorithms []string `yaml:"algorithms" enum:"HS256|HS384|HS512|RS256|RS384|RS512|PS256|PS384|PS512|ES256|ES384|ES512|EdDSA"`
	// Secret of the HS algorithms.
	Secret Secret `yaml:"secret"`
	// SecretBase64 says that the secret is written in base64, of either alphabet.
	SecretBase64 bool `yaml:"secret_base64" default:"false"`
	// PublicKey of the other algorithms, PEM; `${file:PATH}` reads it from a file.
	PublicKey string `yaml:"public_key"`
	// JWKSURL to fetch the issuer's keys from.
	JWKSURL string `yaml:"jwks_url"`
}

// BasicCredential is a user name with the hash of its password.
type BasicCredential struct {
	// Username without a colon. Default: the consumer's name.
	Username string `yaml:"username"`
	// Hash of the password: bcrypt (`$2b$…`), argon2id (`$argon2id$v=19$…`), or `sha256:` and 64 hexadecimal digits for long random ones.
	Hash string `yaml:"hash" required:"true" secret:"true"`
}

// HMACCredential is a user name with the secret that its signatures are made with.
type HMACCredential struct {
	// Username without quotes and backslashes. Default: the consumer's name.
	Username string `yaml:"username"`
	// Secret that the caller signs with; at least 20 bytes.
	Secret Secret `yaml:"secret" required:"true"`
}

// Tenant is a party that shares the gateway with others.
type Tenant struct {
	// Name of the tenant.
	Name string `yaml:"-" key:"true"`
	// Hosts that belong to the tenant, `api.acme.example` or `*.acme.example`. A host belongs to one tenant.
	Hosts []string `yaml:"hosts"`
	// Plan of the tenant: its policies apply where neither the consumer, nor its plan, nor the tenant has the same policy.
	Plan string `yaml:"plan"`
	// ConcurrencyShare is how much of a bound of `concurrency` that several tenants share this one may use, and its weight among those that wait.
	ConcurrencyShare Percent `yaml:"concurrency_share" default:"100%"`
	// AdminToken lets its bearer see the tenant's consumers, keys, limits and usage on the admin listener, and make and revoke their keys: no others', and nothing else. It needs `admin.token`.
	AdminToken Secret `yaml:"admin_token"`
	// Policies of the tenant's requests, unless a consumer or its plan has the same policy; only of stages after Authenticate.
	Policies Policies `yaml:"policies"`
}

// Team says what the files of a team may do. They stand in `teams/NAME/*.yaml` beside the files of the directory, hold `services` and `routes` alone, and see neither the environment nor files of the gateway. What they name is called TEAM/NAME in logs, metrics and the API; they reach their own services and no others. A team whose files are broken keeps what it had, alone, and the log says so.
type Team struct {
	// Name of the team.
	Name string `yaml:"-" key:"true"`
	// Hosts that the team's routes may match; one with a wildcard takes in those below it. A route without hosts matches all of them.
	Hosts []string `yaml:"hosts"`
	// PathPrefixes that the team's routes must stay below, by whole segments. A route without paths matches all of them. At least one of `hosts` and `path_prefixes` stands here, and no two teams have the same.
	PathPrefixes []string `yaml:"path_prefixes"`
	// MaxRoutes bounds the team's routes; 0: no limit.
	MaxRoutes int `yaml:"max_routes" default:"0" min:"0"`
	// MaxServices bounds the team's services; 0: no limit.
	MaxServices int `yaml:"max_services" default:"0" min:"0"`
	// MaxEndpoints bounds the endpoints that one of the team's services lists; 0: no limit.
	MaxEndpoints int `yaml:"max_endpoints" default:"0" min:"0"`
	// AllowedPolicies are the only policies that the team may set or turn off on its routes and services. Default: none.
	AllowedPolicies []string `yaml:"allowed_policies"`
}
