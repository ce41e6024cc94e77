package exchange

import (
	"math"
	"time"

	"sluice/gateway/grpcwire"
)

// DeadlineHeader tells until when a client has a use for the answer: a time of
// RFC 3339, or the seconds that are left when the request arrives, as 2.5.
const DeadlineHeader = "X-Request-Deadline"

const grpcTimeout = "Grpc-Timeout"

// Deadline returns the reading of the clock after which the client has no use
// for an answer: what X-Request-Deadline and grpc-timeout say, the earlier of
// the two. Without either it is 0; what can not be read counts as not there.
// A client can only shorten its own waiting by it, so it is believed from anybody.
func (x *Exchange) Deadline() int64 {
	var at int64
	for i := range x.Fields {
		var when int64
		switch f := &x.Fields[i]; {
		case len(f.Name) == len(DeadlineHeader) && EqualFold(f.Name, DeadlineHeader):
			when = x.readDeadline(f.Value)
		case len(f.Name) == len(grpcTimeout) && EqualFold(f.Name, grpcTimeout):
			if left, ok := grpcwire.ParseTimeout(f.Value); ok {
				when = x.after(left)
			}
		}
		if when != 0 && (at == 0 || when < at) {
			at = when
		}
	}
	return at
}

// after is a reading of the clock so long after the request arrived, never 0.
func (x *Exchange) after(left time.Duration) int64 {
	at := x.Start + int64(left)
	if at < x.Start {
		return math.MaxInt64
	}
	return max(at, 1)
}

func (x *Exchange) readDeadline(v []byte) int64 {
	if left, ok := parseSeconds(v); ok {
		return x.after(left)
	}
	if t, ok := parseTime(v); ok {
		return max(x.Clock.Since(t), 1)
	}
	return 0
}

// parseSeconds reads digits, perhaps with a fraction.
func parseSeconds(v []byte) (time.Duration, bool) {
	whole, rest, ok := leadingInt(v, 9)
	if !ok {
		return 0, false
	}
	d := time.Duration(whole) * time.Second
	if len(rest) == 0 {
		return d, true
	}
	fraction, ok := parseFraction(rest)
	return d + fraction, ok
}

// parseFraction reads a point and digits up to the end, as a part of a second.
func parseFraction(v []byte) (time.Duration, bool) {
	if len(v) < 2 || v[0] != '.' {
		return 0, false
	}
	var d time.Duration
	unit := time.Second / 10
	for _, c := range v[1:] {
		if c < '0' || c > '9' {
			return 0, false
		}
		d += time.Duration(c-'0') * unit
		unit /= 10
	}
	return d, true
}

// leadingInt reads up to most digits; more, or none, is not ok.
func leadingInt(v []byte, most int) (n int64, rest []byte, ok bool) {
	i := 0
	for ; i < len(v) && '0' <= v[i] && v[i] <= '9'; i++ {
		if i == most {
			return 0, nil, false
		}
		n = n*10 + int64(v[i]-'0')
	}
	return n, v[i:], i > 0
}

// parseTime reads a time of RFC 3339. The time package allocates for one that is not in UTC.
func parseTime(v []byte) (time.Time, bool) {
	const form = "2006-01-02T15:04:05"
	if len(v) <= len(form) || v[4] != '-' || v[7] != '-' || v[10]|0x20 != 't' || v[13] != ':' || v[16] != ':' {
		return time.Time{}, false
	}
	var n [6]int
	for i, span := range [6][2]int{{0, 4}, {5, 7}, {8, 10}, {11, 13}, {14, 16}, {17, 19}} {
		value, rest, ok := leadingInt(v[span[0]:span[1]], 4)
		if !ok || len(rest) > 0 {
			return time.Time{}, false
		}
		n[i] = int(value)
	}
	if n[1] < 1 || n[1] > 12 || n[2] < 1 || n[2] > 31 || n[3] > 23 || n[4] > 59 || n[5] > 60 {
		return time.Time{}, false
	}
	rest := v[len(form):]
	var fraction time.Duration
	if rest[0] == '.' {
		end := 1
		for end < len(rest) && '0' <= rest[end] && rest[end] <= '9' {
			end++
		}
		var ok bool
		if fraction, ok = parseFraction(rest[:end]); !ok {
			return time.Time{}, false
		}
		rest = rest[end:]
	}
	t := time.Date(n[0], time.Month(n[1]), n[2], n[3], n[4], n[5], int(fraction), time.UTC)
	if len(rest) == 1 && rest[0]|0x20 == 'z' {
		return t, true
	}
	if len(rest) != 6 || rest[3] != ':' {
		return time.Time{}, false
	}
	hours, left, ok := leadingInt(rest[1:3], 2)
	minutes, over, also := leadingInt(rest[4:6], 2)
	if !ok || !also || len(left)+len(over) > 0 || hours > 23 || minutes > 59 {
		return time.Time{}, false
	}
	offset := time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute
	switch rest[0] {
	case '+':
		return t.Add(-offset), true
	case '-':
		return t.Add(offset), true
	}
	return time.Time{}, false
}
