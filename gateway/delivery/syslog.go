package delivery

import (
	"errors"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sluice/config"
	"sluice/gateway/telemetry"
)

// Syslog sends lines as messages of syslog. Over TCP each is preceded by its length (RFC 6587, octet counting), over UDP and a socket of datagrams each is one.
type Syslog struct {
	// Address of the server: `udp://HOST:PORT`, `tcp://HOST:PORT`, `tls://HOST:PORT` (RFC 5425, usually at port 6514), or `unix:///dev/log`.
	Address string `yaml:"address" required:"true"`
	// Header of the messages: that of RFC 5424, or that of RFC 3164, which the sockets of journald and most systems want; there it names no host.
	Header string `yaml:"header" enum:"rfc5424|rfc3164" default:"rfc5424"`
	// Facility of the messages.
	Facility string `yaml:"facility" enum:"kern|user|mail|daemon|auth|syslog|lpr|news|uucp|cron|authpriv|ftp|local0|local1|local2|local3|local4|local5|local6|local7" default:"local0"`
	// Severity of requests that went well, status below 400.
	Severity string `yaml:"severity" enum:"emerg|alert|crit|err|warning|notice|info|debug" default:"info"`
	// ClientErrors is the severity of those with a status of 4xx.
	ClientErrors string `yaml:"client_errors" enum:"emerg|alert|crit|err|warning|notice|info|debug" default:"notice"`
	// ServerErrors is the severity of those with a status of 5xx.
	ServerErrors string `yaml:"server_errors" enum:"emerg|alert|crit|err|warning|notice|info|debug" default:"err"`
	// Least is the least severity that is sent.
	Least string `yaml:"least" enum:"emerg|alert|crit|err|warning|notice|info|debug" default:"debug"`
	// AppName is the name of the program in the messages.
	AppName string `yaml:"app_name" default:"sluice"`
	// Hostname in the messages. Default: the machine's.
	Hostname string `yaml:"hostname"`
	// Timeout for connecting, and for each write.
	Timeout config.Duration `yaml:"timeout" default:"5s" min:"10ms" max:"1m"`
	// Retries after the first try to connect or to write, but over UDP; then the messages are lost.
	Retries int `yaml:"retries" default:"3" min:"0" max:"10"`
	// TLS settings for an address with tls://.
	TLS TLS `yaml:"tls"`
}

// Shorthand is what a plain text stands for.
func (*Syslog) Shorthand() string { return "address" }

var (
	severities = []string{"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}
	facilities = []string{"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"}
)

// Target checks the settings.
func (c *Syslog) Target() (*Target, error) {
	u, err := url.Parse(c.Address)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		u = &url.URL{}
	}
	s := socket{timeout: c.Timeout, retries: c.Retries}
	switch {
	case u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		s.network, s.address = "unix", u.Path
	case (u.Scheme == "udp" || u.Scheme == "tcp" || u.Scheme == "tls") && isHostPort(u.Host) && u.Path == "":
		s.network, s.address = u.Scheme, u.Host
		if u.Scheme == "tls" {
			s.network = "tcp"
		}
	default:
		return nil, config.Errorf("address", "this is no address of a syslog server; write udp://HOST:PORT, tcp://HOST:PORT, tls://HOST:PORT or unix:///dev/log")
	}
	if s.network == "udp" {
		s.retries = 0
	}
	var fingerprint string
	if s.tls, fingerprint, err = c.TLS.load(u.Scheme == "tls"); err != nil {
		return nil, err
	}
	host := c.Hostname
	if host == "" {
		host, _ = os.Hostname()
	}
	m := &message{
		facility: slices.Index(facilities, c.Facility) * 8,
		good:     slices.Index(severities, c.Severity), client: slices.Index(severities, c.ClientErrors), server: slices.Index(severities, c.ServerErrors), least: slices.Index(severities, c.Least),
		app: word(c.AppName, 48), host: word(host, 255), pid: strconv.Itoa(os.Getpid()),
		old: c.Header == "rfc3164", counted: s.network == "tcp", ended: s.network == "unix",
	}
	return &Target{
		Name:     c.Address,
		Identity: identity("syslog", c, fingerprint),
		Stamped:  true,
		Open:     s.open(m.append),
	}, nil
}

// word makes a text one of a header: printable, without spaces, not empty.
func word(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s[:min(len(s), most)]
}

// message writes lines as messages of syslog.
type message struct {
	facility                    int
	good, client, server, least int
	app, host, pid              string
	old                         bool // RFC 3164
	counted                     bool // each is preceded by its length
	ended                       bool // each ends in a newline, which datagrams may have and streams need
	one                         []byte
}

func (m *message) append(line, dst []byte) []byte {
	at, status, text := telemetry.CutStamp(line)
	severity := m.good
	switch {
	case status >= 500:
		severity = m.server
	case status >= 400:
		severity = m.client
	}
	if severity > m.least {
		return dst
	}
	b := append(m.one[:0], '<')
	b = append(strconv.AppendInt(b, int64(m.facility+severity), 10), '>')
	if m.old {
		b = at.Local().AppendFormat(b, time.Stamp)
		b = append(b, ' ')
		b = append(append(append(b, m.app...), '['), m.pid...)
		b = append(b, "]: "...)
	} else {
		b = append(b, "1 "...)
		b = at.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
		for _, part := range [...]string{m.host, m.app, m.pid, "access", "-"} { // no structured data
			b = append(append(b, ' '), part...)
		}
		b = append(b, ' ')
	}
	b = append(b, text...)
	if m.ended {
		b = append(b, '\n')
	}
	m.one = b
	if m.counted {
		dst = append(strconv.AppendInt(dst, int64(len(b)), 10), ' ')
	}
	return append(dst, b...)
}

func isTooLong(err error) bool { return errors.Is(err, syscall.EMSGSIZE) }
