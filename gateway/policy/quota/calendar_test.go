package quota

import (
	"math/rand/v2"
	"testing"
	"time"
)

func load(t *testing.T, name string) *time.Location {
	t.Helper()
	loc, err := zone(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func TestBounds(t *testing.T) {
	f := func(unit, zone, now, start, end string) {
		t.Helper()
		read := func(s string) int64 {
			v, err := time.Parse(time.RFC3339, s)
			if err != nil {
				t.Fatal(err)
			}
			return v.Unix()
		}
		from, to := bounds(unit, load(t, zone), read(now))
		if from != read(start) || to != read(end) {
			show := func(s int64) string { return time.Unix(s, 0).UTC().Format(time.RFC3339) }
			t.Errorf("%s in %s at %s: %s to %s, want %s to %s", unit, zone, now, show(from), show(to), start, end)
		}
	}
	f("day", "UTC", "2027-01-31T23:59:59Z", "2027-01-31T00:00:00Z", "2027-02-01T00:00:00Z")
	f("day", "UTC", "2027-02-01T00:00:00Z", "2027-02-01T00:00:00Z", "2027-02-02T00:00:00Z")
	f("month", "UTC", "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z")
	f("month", "UTC", "2027-02-28T23:59:59Z", "2027-02-01T00:00:00Z", "2027-03-01T00:00:00Z")
	f("month", "UTC", "2027-12-31T23:59:59Z", "2027-12-01T00:00:00Z", "2028-01-01T00:00:00Z")
	f("year", "UTC", "2028-07-01T00:00:00Z", "2028-01-01T00:00:00Z", "2029-01-01T00:00:00Z")
	// Weeks begin on Monday, also those over the end of a year.
	f("week", "UTC", "2027-01-03T23:59:59Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z")
	f("week", "UTC", "2027-01-04T00:00:00Z", "2027-01-04T00:00:00Z", "2027-01-11T00:00:00Z")
	// Days of 23 and of 25 hours, and what they do to weeks and months.
	f("day", "Europe/Berlin", "2027-03-28T12:00:00+02:00", "2027-03-28T00:00:00+01:00", "2027-03-29T00:00:00+02:00")
	f("day", "Europe/Berlin", "2027-10-31T12:00:00+01:00", "2027-10-31T00:00:00+02:00", "2027-11-01T00:00:00+01:00")
	f("week", "Europe/Berlin", "2027-03-28T12:00:00+02:00", "2027-03-22T00:00:00+01:00", "2027-03-29T00:00:00+02:00")
	f("month", "America/New_York", "2027-03-31T23:59:59-04:00", "2027-03-01T00:00:00-05:00", "2027-04-01T00:00:00-04:00")
	f("month", "Asia/Kathmandu", "2027-01-31T18:15:00Z", "2027-01-31T18:15:00Z", "2027-02-28T18:15:00Z")
	f("day", "Pacific/Kiritimati", "2027-05-05T10:00:00Z", "2027-05-05T10:00:00Z", "2027-05-06T10:00:00Z")
	// Clocks that skip midnight: Beirut goes from 24:00 to 01:00.
	f("day", "Asia/Beirut", "2022-03-27T12:00:00+03:00", "2022-03-27T01:00:00+03:00", "2022-03-28T00:00:00+03:00")
	f("day", "Asia/Beirut", "2022-03-26T12:00:00+02:00", "2022-03-26T00:00:00+02:00", "2022-03-27T01:00:00+03:00")
	// Clocks that show midnight twice: Havana goes from 01:00 back to 00:00.
	f("day", "America/Havana", "2022-11-06T00:30:00-05:00", "2022-11-06T00:00:00-04:00", "2022-11-07T00:00:00-05:00")
	// Clocks that go from midnight back into the day before: it has 25 hours.
	f("day", "Asia/Beirut", "2022-10-29T23:30:00+02:00", "2022-10-29T00:00:00+03:00", "2022-10-30T00:00:00+02:00")
	// From a minute after midnight back into the day before: the new day has begun all the same.
	f("day", "America/St_Johns", "2010-11-06T23:30:00-03:30", "2010-11-07T00:00:00-02:30", "2010-11-08T00:00:00-03:30")
	// A day that was left out.
	f("day", "Pacific/Apia", "2011-12-31T12:00:00+14:00", "2011-12-31T00:00:00+14:00", "2012-01-01T00:00:00+14:00")
	f("day", "Pacific/Apia", "2011-12-29T12:00:00-10:00", "2011-12-29T00:00:00-10:00", "2011-12-30T00:00:00-10:00")
	// Hours are those of the clock, and end where it is set.
	f("hour", "Asia/Kolkata", "2027-05-05T10:45:00Z", "2027-05-05T10:30:00Z", "2027-05-05T11:30:00Z")
	f("hour", "Europe/Berlin", "2027-10-31T02:30:00+02:00", "2027-10-31T02:00:00+02:00", "2027-10-31T02:00:00+01:00")
	f("hour", "Australia/Lord_Howe", "2027-04-04T01:45:00+11:00", "2027-04-04T01:00:00+11:00", "2027-04-04T02:00:00+11:00")
	f("hour", "UTC", "1969-12-31T23:30:00Z", "1969-12-31T23:00:00Z", "1970-01-01T00:00:00Z")
}

// Whatever the timezone, periods follow each other without gaps and overlaps, and every moment is in its own.
func TestPeriodsAreSeamless(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{"UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "America/Havana", "Asia/Beirut", "Pacific/Apia", "Australia/Lord_Howe", "Africa/Casablanca", "America/Santiago"} {
		loc := load(t, name)
		for _, unit := range []string{"hour", "day", "week", "month", "year"} {
			for range 300 {
				now := 1_000_000_000 + r.Int64N(1_200_000_000)
				start, end := bounds(unit, loc, now)
				if now < start || now >= end {
					t.Fatalf("%s in %s: %d is not in %d to %d", unit, name, now, start, end)
				}
				for _, same := range []int64{start, end - 1} {
					if s, e := bounds(unit, loc, same); s != start || e != end {
						t.Fatalf("%s in %s: %d is in %d to %d, and %d in %d to %d", unit, name, now, start, end, same, s, e)
					}
				}
				if s, _ := bounds(unit, loc, end); s != end {
					t.Fatalf("%s in %s: after %d to %d comes one from %d", unit, name, start, end, s)
				}
				if _, e := bounds(unit, loc, start-1); e != start {
					t.Fatalf("%s in %s: before %d to %d comes one to %d", unit, name, start, end, e)
				}
			}
		}
	}
}
