package snapshot

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"sluice/config"
	"sluice/gateway/discovery"
)

// Text renders the explanation for people, in aligned columns.
func (e *Explanation) Text() string {
	var b strings.Builder
	if e.Problem != "" {
		fmt.Fprintf(&b, "cannot explain: %s\n", e.Problem)
		return b.String()
	}
	e.textRequest(&b)
	e.textRouting(&b)
	textPolicies(&b, "POLICIES", e.Policies)
	if e.Action != nil {
		fmt.Fprintf(&b, "\nACTION %s  (%s)\n", e.Action.Action, e.Action.Source)
		table(&b, func(w io.Writer) { textSettings(w, "  ", e.Action.Settings) })
	}
	for i := range e.Services {
		e.Services[i].text(&b)
	}
	if e.UpstreamPath != "" {
		fmt.Fprintf(&b, "\nUPSTREAM %s %s\n", e.Request.Method, e.UpstreamPath)
	}
	return b.String()
}

func (e *Explanation) textRequest(b *strings.Builder) {
	r := &e.Request
	fmt.Fprintf(b, "REQUEST %s %s://%s%s", r.Method, r.Scheme, r.Host, r.Path)
	if r.Query != "" {
		b.WriteString("?" + r.Query)
	}
	b.WriteByte('\n')
	table(b, func(w io.Writer) {
		fmt.Fprintf(w, "  listener\t%s\n", r.Listener)
		fmt.Fprintf(w, "  client\t%s", r.Client)
		if r.Client != r.Peer {
			fmt.Fprintf(w, " (by the trusted proxy %s)", r.Peer)
		}
		if r.Consumer != "" {
			fmt.Fprintf(w, "\n  consumer\t%s", r.Consumer)
		}
		if r.Tenant != "" {
			fmt.Fprintf(w, "\n  tenant\t%s", r.Tenant)
		}
		fmt.Fprintln(w)
	})
}

func (e *Explanation) textRouting(b *strings.Builder) {
	if e.Route != "" {
		fmt.Fprintf(b, "\nROUTE %s  (%s)\n", e.Route, e.Source)
		if e.Status != 0 {
			fmt.Fprintf(b, "  refused: %d, %s\n", e.Status, e.Why)
		}
	} else {
		fmt.Fprintf(b, "\nNO ROUTE: %d, %s\n", e.Status, e.Why)
		if e.Allow != "" {
			fmt.Fprintf(b, "  Allow: %s\n", e.Allow)
		}
	}
	table(b, func(w io.Writer) {
		for _, c := range e.Candidates {
			mark := "-"
			if c.Won {
				mark = "*"
			}
			fmt.Fprintf(w, "  %s %s\t%s\n", mark, c.Name, c.Reason)
		}
	})
}

func textPolicies(b *strings.Builder, title string, policies []ExplainedPolicy) {
	if len(policies) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s, in this order\n", title)
	table(b, func(w io.Writer) {
		for _, p := range policies {
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", p.Policy, p.Stage, p.From, p.Source)
			if p.Finds != "" {
				fmt.Fprintf(w, "    finds: %s\n", p.Finds)
			}
			textSettings(w, "    ", p.Settings)
		}
	})
}

func textSettings(w io.Writer, indent string, settings []config.Setting) {
	for _, s := range settings {
		fmt.Fprintf(w, "%s%s\t%s\t\t%s\n", indent, s.Path, textValue(s.Value), s.Source)
	}
}

// textValue writes a value on one line.
func textValue(v any) string {
	text, ok := v.(string)
	if !ok {
		data, err := json.Marshal(v)
		if err != nil {
			return "?"
		}
		return cut(string(data))
	}
	if text == "" || strings.ContainsAny(text, "\t\n\r\x1b") {
		text = strconv.Quote(text)
	}
	return cut(text)
}

// cut keeps a value from making its column wider than a screen.
func cut(text string) string {
	if len(text) > 80 {
		text = strings.ToValidUTF8(text[:80], "") + "…"
	}
	return text
}

func (s *ExplainedService) text(b *strings.Builder) {
	fmt.Fprintf(b, "\nSERVICE %s  (%s)\n", s.Service, s.Source)
	retries := "none"
	if s.Retries > 0 {
		retries = fmt.Sprintf("%d, when %s", s.Retries, strings.Join(s.RetryWhen, ", "))
	}
	table(b, func(w io.Writer) {
		fmt.Fprintf(w, "  protocol\t%s\n  strategy\t%s\n  breaker\t%s\n", s.Protocol, s.Strategy, s.Breaker)
		if s.Discovery != nil {
			fmt.Fprintf(w, "  endpoints\tfound by %s\n", textDiscovery(s.Discovery))
		}
		fmt.Fprintf(w, "  timeouts\tconnect %s, response %s\n  retries\t%s\n", s.Connect, s.Response, retries)
	})
	table(b, func(w io.Writer) {
		fmt.Fprintf(w, "  ENDPOINT\tWEIGHT\tUP\tBREAKER\tIN FLIGHT\tLATENCY\n")
		for _, ep := range s.Endpoints {
			up := "yes"
			switch {
			case ep.Draining:
				up = "draining"
			case ep.EjectedFor != "":
				up = "ejected for " + ep.EjectedFor
			case !ep.Up:
				up = "no"
			}
			fmt.Fprintf(w, "  %s\t%d\t%s\t%s\t%d\t%.1fms\n", ep.Endpoint, ep.Weight, up, ep.Breaker, ep.InFlight, ep.LatencyMS)
		}
	})
	textPolicies(b, "POLICIES of "+s.Service, s.Policies)
}

// textDiscovery tells where endpoints come from, and how that does.
func textDiscovery(st *discovery.Status) string {
	text := st.Where
	switch {
	case st.Stored:
		text += ", kept from before and not confirmed"
	case st.Confirmed != nil:
		text += ", confirmed " + st.Confirmed.Format(time.RFC3339)
	case !st.Failing:
		text += ", not asked here"
	}
	if st.Refused != "" {
		text += "; refused " + st.Refused
	}
	if st.Failing {
		text += "; failing: " + st.LastError
	}
	return text
}

// table aligns what f writes.
func table(b *strings.Builder, f func(w io.Writer)) {
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	f(w)
	_ = w.Flush()
}
