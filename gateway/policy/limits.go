package policy

import (
	"cmp"
	"slices"
	"strings"
)

// LimitInspector is what the living state of limits offers to operators.
type LimitInspector interface {
	// Inspect lists what is counted. It looks through everything and is meant for operators, not for the path of a request.
	Inspect(q LimitQuery) []LimitEntry
}

// LimitQuery says which entries an operator wants to see.
type LimitQuery struct {
	// Now is a reading of the gateway's monotonic clock.
	Now int64
	// Prefix is what the key begins with, with or without its kind: "alice", "consumer:alice", "ip:192.0.2.".
	Prefix string
	// Tenant leaves out what is not this tenant's; "" leaves out nothing.
	Tenant string
	// Most bounds the number of entries.
	Most int
}

// LimitEntry is what one caller has left of one block.
type LimitEntry struct {
	// Policy is rate_limit or quota.
	Policy string `json:"policy"`
	// Scope is the block it belongs to: "routes.users", "plans.gold", "global".
	Scope string `json:"scope"`
	// Tenant is whose requests are counted.
	Tenant string `json:"tenant,omitempty"`
	// Key says whose it is: "consumer:alice", "subject:42", "ip:192.0.2.1", "header:X-Org=acme", "claim:org=acme", "tenant:acme", "route:users", "global".
	Key string `json:"key"`
	// Windows are its windows.
	Windows []LimitWindow `json:"windows"`
}

// LimitWindow is one window of a limit, or one period of a quota.
type LimitWindow struct {
	Name     string `json:"name"`
	Requests int64  `json:"requests"`
	// Per and Reset are in seconds; Reset is the time until a bucket is full, or a period ends.
	Per       float64 `json:"per"`
	Burst     int64   `json:"burst"`
	Remaining int64   `json:"remaining"`
	Reset     float64 `json:"reset"`
	Shadow    bool    `json:"shadow,omitempty"`
	// Period is the calendar period of a quota, or what the clock of a limit counts by; Used what of it is used.
	Period string `json:"period,omitempty"`
	Used   int64  `json:"used"`
}

// LimitList collects the entries that a query asks for, the first of them in the order of scope and key.
type LimitList struct {
	query   LimitQuery
	entries []LimitEntry
}

// NewLimitList returns an empty list.
func NewLimitList(q LimitQuery) *LimitList { return &LimitList{query: q} }

// Wants reports whether the query asks for an entry.
func (l *LimitList) Wants(tenant, key string) bool {
	return (l.query.Tenant == "" || l.query.Tenant == tenant) && matchesKey(key, l.query.Prefix)
}

// Add adds an entry.
func (l *LimitList) Add(e LimitEntry) {
	l.entries = append(l.entries, e)
	if len(l.entries) >= 2*l.query.Most+64 {
		l.cut()
	}
}

// Entries returns what was collected, in order.
func (l *LimitList) Entries() []LimitEntry {
	l.cut()
	return l.entries
}

func (l *LimitList) cut() {
	slices.SortFunc(l.entries, func(a, b LimitEntry) int {
		return cmp.Or(strings.Compare(a.Scope, b.Scope), strings.Compare(a.Policy, b.Policy), strings.Compare(a.Tenant, b.Tenant),
			strings.Compare(a.Key, b.Key), last(a.Windows[0].Shadow)-last(b.Windows[0].Shadow), strings.Compare(a.Windows[0].Name, b.Windows[0].Name))
	})
	if len(l.entries) > l.query.Most {
		clear(l.entries[l.query.Most:])
		l.entries = l.entries[:l.query.Most]
	}
}

func last(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func matchesKey(key, prefix string) bool {
	if strings.HasPrefix(key, prefix) {
		return true
	}
	_, value, _ := strings.Cut(key, ":")
	if strings.HasPrefix(value, prefix) {
		return true
	}
	_, value, _ = strings.Cut(value, "=")
	return strings.HasPrefix(value, prefix)
}
