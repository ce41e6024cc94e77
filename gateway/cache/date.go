package cache

const (
	second = 1_000_000_000 // in nanoseconds
	day    = 86400         // in seconds
)

const (
	weekdays = "sunmontuewedthufrisat"
	months   = "janfebmaraprmayjunjulaugsepoctnovdec"
)

var longDays = [...]string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"}

// ParseDate reads an HTTP-date in any of its three forms (RFC 9110 5.6.7) as unix seconds. Case does not matter and a
// zone other than GMT makes the date invalid (RFC 9111 4.2). now is unix nanoseconds: it decides the century of a
// two-digit year, which is never more than 50 years ahead.
func ParseDate(b []byte, now int64) (sec int64, ok bool) {
	comma := -1
	for i := 0; i < len(b) && i < 10; i++ {
		if b[i] == ',' {
			comma = i
			break
		}
	}
	p := dateScanner{b: b}
	var year, month, dayOfMonth, hours, minutes, secs int
	switch comma {
	case 3: // Sun, 06 Nov 1994 08:49:37 GMT
		if len(b) != 29 {
			return 0, false
		}
		p.name(weekdays)
		p.literal(", ")
		dayOfMonth = p.digits(2)
		p.literal(" ")
		month = p.name(months)
		p.literal(" ")
		year = p.digits(4)
		p.literal(" ")
		hours, minutes, secs = p.clock()
		p.literal(" gmt")
	case -1: // Sun Nov  6 08:49:37 1994
		if len(b) != 24 {
			return 0, false
		}
		p.name(weekdays)
		p.literal(" ")
		month = p.name(months)
		p.literal(" ")
		if p.b[p.i] == ' ' {
			p.i++
			dayOfMonth = p.digits(1)
		} else {
			dayOfMonth = p.digits(2)
		}
		p.literal(" ")
		hours, minutes, secs = p.clock()
		p.literal(" ")
		year = p.digits(4)
	default: // Sunday, 06-Nov-94 08:49:37 GMT
		if len(b) != comma+24 || !longDay(b[:comma]) {
			return 0, false
		}
		p.i = comma
		p.literal(", ")
		dayOfMonth = p.digits(2)
		p.literal("-")
		month = p.name(months)
		p.literal("-")
		year = p.digits(2)
		p.literal(" ")
		hours, minutes, secs = p.clock()
		p.literal(" gmt")
	}
	// A 60th second is the leap second that the grammar allows.
	if p.bad || hours > 23 || minutes > 59 || secs > 60 {
		return 0, false
	}
	if comma > 3 {
		return shortYear(year, month, dayOfMonth, hours*3600+minutes*60+secs, now)
	}
	if dayOfMonth < 1 || dayOfMonth > monthDays(year, month) {
		return 0, false
	}
	return daysSinceEpoch(year, month, dayOfMonth)*day + int64(hours*3600+minutes*60+secs), true
}

// shortYear chooses the latest century that does not put the date more than 50 years ahead of now.
func shortYear(year, month, dayOfMonth, secs int, now int64) (int64, bool) {
	thisYear, thisMonth, thisDay := civil(floorDiv(floorDiv(now, second), day))
	limit := daysSinceEpoch(thisYear+50, thisMonth, thisDay)*day + floorDiv(now, second) - floorDiv(floorDiv(now, second), day)*day
	for century := (thisYear + 50) / 100 * 100; century >= 0; century -= 100 {
		if dayOfMonth < 1 || dayOfMonth > monthDays(century+year, month) {
			if dayOfMonth == 29 && month == 1 && year == 0 {
				continue // 29 February of a century's year that is not a leap year
			}
			return 0, false
		}
		if sec := daysSinceEpoch(century+year, month, dayOfMonth)*day + int64(secs); sec <= limit {
			return sec, true
		}
	}
	return 0, false
}

// AppendDate appends the date in the form that is generated (IMF-fixdate, RFC 9110 5.6.7). sec is unix seconds, from
// year 0 to year 9999.
func AppendDate(dst []byte, sec int64) []byte {
	days := floorDiv(sec, day)
	rest := int(sec - days*day)
	year, month, dayOfMonth := civil(days)
	weekday := int(((days+4)%7 + 7) % 7)
	dst = append(dst, weekdays[weekday*3]-'a'+'A', weekdays[weekday*3+1], weekdays[weekday*3+2], ',', ' ')
	dst = appendTwo(dst, dayOfMonth)
	dst = append(dst, ' ', months[month*3]-'a'+'A', months[month*3+1], months[month*3+2], ' ')
	dst = appendTwo(dst, year/100)
	dst = appendTwo(dst, year%100)
	dst = append(dst, ' ')
	dst = appendTwo(dst, rest/3600)
	dst = append(dst, ':')
	dst = appendTwo(dst, rest/60%60)
	dst = append(dst, ':')
	dst = appendTwo(dst, rest%60)
	return append(dst, " GMT"...)
}

func appendTwo(dst []byte, n int) []byte { return append(dst, byte('0'+n/10%10), byte('0'+n%10)) }

// dateScanner reads a date whose length was checked; after a mistake it stays bad.
type dateScanner struct {
	b   []byte
	i   int
	bad bool
}

func (p *dateScanner) literal(want string) {
	if p.i+len(want) > len(p.b) || !is(p.b[p.i:p.i+len(want)], want) {
		p.bad = true
		return
	}
	p.i += len(want)
}

func (p *dateScanner) digits(n int) (v int) {
	if p.bad || p.i+n > len(p.b) {
		p.bad = true
		return 0
	}
	for range n {
		c := p.b[p.i]
		if c < '0' || c > '9' {
			p.bad = true
			return 0
		}
		v = v*10 + int(c-'0')
		p.i++
	}
	return v
}

// name reads three letters and returns their index in a table of such.
func (p *dateScanner) name(table string) int {
	if !p.bad && p.i+3 <= len(p.b) {
		got := p.b[p.i : p.i+3]
		for i := 0; i < len(table); i += 3 {
			if is(got, table[i:i+3]) {
				p.i += 3
				return i / 3
			}
		}
	}
	p.bad = true
	return 0
}

func (p *dateScanner) clock() (hours, minutes, secs int) {
	hours = p.digits(2)
	p.literal(":")
	minutes = p.digits(2)
	p.literal(":")
	secs = p.digits(2)
	return
}

func longDay(b []byte) bool {
	for _, name := range longDays {
		if is(b, name) {
			return true
		}
	}
	return false
}

func monthDays(year, month int) int {
	switch month {
	case 1:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 3, 5, 8, 10:
		return 30
	}
	return 31
}

// daysSinceEpoch and civil are each other's inverse in the proleptic Gregorian calendar; a month counts from 0. Years
// are counted from March, so that the leap day is the last of a year.
func daysSinceEpoch(year, month, dayOfMonth int) int64 {
	y, m := int64(year), int64(month+1)
	if m <= 2 {
		y--
		m += 12
	}
	era := floorDiv(y, 400)
	yearOfEra := y - era*400
	dayOfYear := (153*(m-3)+2)/5 + int64(dayOfMonth) - 1
	return era*146097 + yearOfEra*365 + yearOfEra/4 - yearOfEra/100 + dayOfYear - 719468
}

func civil(days int64) (year, month, dayOfMonth int) {
	days += 719468
	era := floorDiv(days, 146097)
	d := days - era*146097
	yearOfEra := (d - d/1460 + d/36524 - d/146096) / 365
	dayOfYear := d - (365*yearOfEra + yearOfEra/4 - yearOfEra/100)
	m := (5*dayOfYear + 2) / 153
	dayOfMonth = int(dayOfYear - (153*m+2)/5 + 1)
	y := yearOfEra + era*400
	if m += 3; m > 12 {
		m -= 12
		y++
	}
	return int(y), int(m - 1), dayOfMonth
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
