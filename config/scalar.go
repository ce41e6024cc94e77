package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Duration is written as a number with a unit: 250ms, 30s, 5m, 1h, 1d, 1.5h, 1h30m; 0
// needs none. It is never negative. It is time.Duration itself, so that settings need no
// conversion.
type Duration = time.Duration

const day = 24 * time.Hour

// ParseDuration reads a Duration.
func ParseDuration(s string) (Duration, error) {
	if s == "0" {
		return 0, nil
	}
	fail := func(why string) (Duration, error) {
		return 0, fmt.Errorf("%q is not a duration%s; write a number with its unit, as 250ms, 30s, 5m, 1h or 1d", s, why)
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return fail(": it has no unit")
	}
	if strings.HasPrefix(s, "-") {
		return fail(": it is negative")
	}
	total, rest := Duration(0), s
	if days, after, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || !(n >= 0 && n < 100_000) || strings.ContainsAny(days, "xXeEpP_nN+") {
			return fail("")
		}
		total, rest = Duration(math.Round(n*float64(day))), after
		if rest == "" {
			return total, nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || d > math.MaxInt64-total {
		return fail("")
	}
	return total + d, nil
}

var durationUnits = []struct {
	suffix string
	unit   Duration
}{{"d", day}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond}, {"us", time.Microsecond}}

// FormatDuration writes d as ParseDuration reads it, in the largest unit that needs no
// fraction: 75s, 5m, 1d.
func FormatDuration(d Duration) string {
	for _, u := range durationUnits {
		if d != 0 && d%u.unit == 0 {
			return strconv.FormatInt(int64(d/u.unit), 10) + u.suffix
		}
	}
	return d.String()
}

// Size is a number of bytes. It is written as 64KiB, 10MiB, 2GiB (powers of 1024), as
// 1KB, 1MB, 1GB (powers of 1000), or as plain bytes.
type Size int64

var sizeUnits = []struct {
	suffix string
	bytes  Size
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1},
}

// UnmarshalText reads a Size.
func (s *Size) UnmarshalText(text []byte) error {
	for _, unit := range sizeUnits {
		number, ok := strings.CutSuffix(string(text), unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 63)
		if err != nil || n > uint64(math.MaxInt64/unit.bytes) {
			break
		}
		*s = Size(n) * unit.bytes
		return nil
	}
	return fmt.Errorf("%q is not a size; write whole bytes or a unit, as 4096, 64KiB or 10MiB", text)
}

func (s Size) String() string {
	for i := 3; i >= 0; i-- {
		if unit := sizeUnits[i]; s != 0 && s%unit.bytes == 0 {
			return strconv.FormatInt(int64(s/unit.bytes), 10) + unit.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Percent is a share between 0 and 1. It is written with its sign: 50%, 2.5%.
type Percent float64

// UnmarshalText reads a Percent.
func (p *Percent) UnmarshalText(text []byte) error {
	number, ok := strings.CutSuffix(string(text), "%")
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if !ok || err != nil || !(n >= 0 && n <= 100) {
		return fmt.Errorf("%q is not a percentage; write 0%% to 100%%, as 50%%", text)
	}
	*p = Percent(n / 100)
	return nil
}

func (p Percent) String() string {
	return strconv.FormatFloat(math.Round(float64(p)*1e8)/1e6, 'f', -1, 64) + "%"
}

const masked = "***"

// Secret is a text that shows itself to nobody: printed, logged or marshalled it reads
// ***. Reveal gives the text to the code that needs it.
type Secret struct{ text string }

// NewSecret hides text.
func NewSecret(text string) Secret { return Secret{text} }

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return s.text }

// IsZero tells whether there is no secret.
func (s Secret) IsZero() bool { return s.text == "" }

// UnmarshalText reads a Secret.
func (s *Secret) UnmarshalText(text []byte) error {
	s.text = string(text)
	return nil
}

func (s Secret) String() string {
	if s.text == "" {
		return ""
	}
	return masked
}

// GoString masks the secret in %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// MarshalText masks the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON masks the secret.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(s.GoString()), nil }

// StringList is one text or a list of texts.
type StringList []string

// CIDR is a network, written as 10.0.0.0/8, 2001:db8::/32, or as one address.
type CIDR struct{ netip.Prefix }

// UnmarshalText reads a CIDR; an address alone is the network of that one address.
func (c *CIDR) UnmarshalText(text []byte) error {
	s := string(text)
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		c.Prefix = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())
		return nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return fmt.Errorf("%q is neither an address nor a network; write 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32", s)
	}
	if masked := prefix.Masked(); masked != prefix {
		return fmt.Errorf("%q has bits beyond its length; write %s", s, masked)
	}
	if addr := prefix.Addr(); addr.Is4In6() {
		if prefix.Bits() < 96 {
			return fmt.Errorf("%q is an IPv4-mapped network; write the IPv4 network itself", s)
		}
		prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
	}
	c.Prefix = prefix
	return nil
}

// parseTime reads a day (its first instant, UTC) or an RFC 3339 time.
func parseTime(s string) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("%q is not a time; write a day as 2027-01-31 or a time as 2027-01-31T15:04:05Z", s)
}

func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true", "on", "yes":
		return true, nil
	case "false", "off", "no":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", s)
}

func parseInt(s string, bits int) (int64, error) {
	n, err := strconv.ParseInt(s, 10, bits)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("%s is too large a number", s)
	}
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", s)
	}
	return n, nil
}

func parseFloat(s string) (float64, error) {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	return n, nil
}
