// Package botfilter lets requests pass by their User-Agent. It keeps away programs that say what they are; one that lies
// passes.
package botfilter

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `bot_filter`. A request without User-Agent is matched as an empty text.
type Config struct {
	// Allow are patterns (RE2) of User-Agents that pass, whatever is denied. Without `deny` no others pass.
	Allow []string `yaml:"allow"`
	// Deny are patterns (RE2) of User-Agents that do not pass, as `(?i)badbot` or `^$`.
	Deny []string `yaml:"deny"`
}

// Definition is the policy `bot_filter`.
var Definition = policy.Define("bot_filter", policy.Guard, build)

var refused = exchange.NewReject(403, "user_agent_not_allowed", "this User-Agent is not allowed here")

type filter struct{ allow, deny *regexp.Regexp } // nil for no pattern

func build(_ *policy.Build, c *Config) (policy.Hooks, error) {
	if len(c.Allow)+len(c.Deny) == 0 {
		return policy.Hooks{}, errors.New("names no pattern; give allow or deny, or off")
	}
	f := &filter{}
	var err error
	if f.allow, err = compile("allow", c.Allow); err != nil {
		return policy.Hooks{}, err
	}
	if f.deny, err = compile("deny", c.Deny); err != nil {
		return policy.Hooks{}, err
	}
	return policy.Hooks{Request: f.request}, nil
}

// compile makes one pattern of all, so that a User-Agent is read once.
func compile(setting string, patterns []string) (*regexp.Regexp, error) {
	for i, p := range patterns {
		if _, err := regexp.Compile(p); err != nil {
			return nil, policy.Wrong(fmt.Sprintf("%s[%d]", setting, i), "%s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		}
	}
	if len(patterns) == 0 {
		return nil, nil
	}
	return regexp.Compile("(?:" + strings.Join(patterns, ")|(?:") + ")")
}

func (f *filter) request(x *exchange.Exchange) error {
	agent := x.RequestHeader("User-Agent")
	switch {
	case f.allow != nil && f.allow.Match(agent):
		return nil
	case f.deny == nil || f.deny.Match(agent):
		return refused
	}
	return nil
}
