// Package requestsize bounds the body of a request: before a byte of it is read where its length is known, and while it is read
// where it is not.
package requestsize

import (
	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `request_size`. What is larger gets 413. It can not lift `limits.max_body_size`.
type Config struct {
	// Max is the largest body that passes.
	Max config.Size `yaml:"max" default:"1MiB" min:"1"`
}

// Definition is the policy `request_size`.
var Definition = policy.Define("request_size", policy.Guard, build)

var rejectTooLarge = exchange.NewReject(413, "body_too_large", "the request body is too large")

// The body is not read, so the connection can not carry another request.
func init() { rejectTooLarge.Close = true }

func build(_ *policy.Build, c *Config) (policy.Hooks, error) {
	most := int64(c.Max)
	return policy.Hooks{Request: func(x *exchange.Exchange) error {
		if int64(x.Request.Header.ContentLength()) > most {
			return rejectTooLarge
		}
		if x.BodyLimit == 0 || x.BodyLimit > most {
			x.BodyLimit = most
		}
		return nil
	}}, nil
}
