package cluster

import (
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/gateway/cluster/redistest"
)

// copybook is a copy of a book in which the greater of two values stands.
type copybook struct {
	mu  sync.Mutex
	all map[string]string
	*Book
}

func openCopy(s *Store) *copybook {
	c := &copybook{all: make(map[string]string)}
	c.Book = s.OpenBook("test", BookOptions{
		Learn: func(id, value string) string {
			c.mu.Lock()
			defer c.mu.Unlock()
			switch {
			case value == "":
				delete(c.all, id)
			case value > c.all[id]:
				c.all[id] = value
			default:
				return c.all[id]
			}
			return value
		},
		All: func(yield func(id, value string) bool) {
			c.mu.Lock()
			all := maps.Clone(c.all)
			c.mu.Unlock()
			for id, value := range all {
				if !yield(id, value) {
					return
				}
			}
		},
	})
	return c
}

func (c *copybook) put(id, value string) {
	c.mu.Lock()
	c.all[id] = value
	c.mu.Unlock()
	c.Write(id, value)
}

func (c *copybook) has() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.all)
}

// What one instance writes all others have, whoever was there when, and whatever became of the store meanwhile.
func TestBook(t *testing.T) {
	server := redistest.Start(t)
	a, b := open(t, nil, server.Address), open(t, nil, server.Address)
	one, two := openCopy(a), openCopy(b)
	defer one.Close()
	defer two.Close()
	same := func(what string, want map[string]string) {
		t.Helper()
		eventually(t, what, func() bool { return maps.Equal(one.has(), want) && maps.Equal(two.has(), want) })
	}
	one.put("x", "1")
	same("both have it", map[string]string{"x": "1"})
	two.put("x", "2")
	two.put("y", "1")
	same("both have what was changed", map[string]string{"x": "2", "y": "1"})
	// Of two that write the same the greater stands, whoever comes last.
	one.put("z", "5")
	two.put("z", "4")
	same("they agree", map[string]string{"x": "2", "y": "1", "z": "5"})
	// One that comes later has everything, also of many.
	for i := range 1500 {
		one.put(strconv.Itoa(i), "v")
	}
	late := openCopy(open(t, nil, server.Address))
	defer late.Close()
	eventually(t, "who comes later has all", func() bool { return len(late.has()) == 1503 && len(two.has()) == 1503 })
	// The store loses all: they have it.
	server.Do("FLUSHALL")
	later := openCopy(open(t, nil, server.Address))
	defer later.Close()
	eventually(t, "it is there again", func() bool { return maps.Equal(later.has(), one.has()) && len(later.has()) == 1503 })
	// What is written while the store is gone is told when it is back.
	server.Pause()
	eventually(t, "the store is gone", func() bool { return !a.Up() && !b.Up() })
	one.put("alone", "1")
	two.put("alone", "3")
	server.Resume()
	eventually(t, "all know what was written meanwhile", func() bool {
		return one.has()["alone"] == "3" && two.has()["alone"] == "3" && late.has()["alone"] == "3"
	})
	one.Write("x", "")
	eventually(t, "it is gone from all", func() bool { return two.has()["x"] == "" && late.has()["x"] == "" && one.has()["x"] == "" })
}

// written is how often something was written in the book.
func written(server *redistest.Server) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(server.Do("EVAL", "return tonumber(redis.call('HGET', KEYS[1], 'v') or 0)", "1", "test:{test}"), ":"))
	return n
}

// A replica that takes over may lack what was written last: who has it writes it again.
func TestBookOfAReplica(t *testing.T) {
	server := redistest.Start(t)
	one := openCopy(open(t, nil, server.Address))
	defer one.Close()
	for _, id := range []string{"a", "b", "x"} {
		one.put(id, "1")
		eventually(t, "it is written", func() bool { return server.Do("HEXISTS", "test:{test}", ":"+id) == ":1" })
	}
	n := written(server)
	server.Do("EVAL", "redis.call('HDEL', KEYS[1], ':x', '@x', '#' .. ARGV[1]) redis.call('HSET', KEYS[1], 'v', ARGV[1] - 1)", "1", "test:{test}", strconv.Itoa(n))
	late := openCopy(open(t, nil, server.Address))
	defer late.Close()
	eventually(t, "who comes later has what was lost", func() bool { return late.has()["x"] == "1" })
}

// Instances that want different things to stand, as those of two versions, do not keep the store busy with it.
func TestBookOfTwoMinds(t *testing.T) {
	server := redistest.Start(t)
	var books []*Book
	for _, mind := range []string{"1", "2"} {
		b := open(t, nil, server.Address).OpenBook("test", BookOptions{
			Learn: func(string, string) string { return mind },
			All:   func(func(id, value string) bool) {},
		})
		defer b.Close()
		books = append(books, b)
	}
	books[0].Write("x", "1")
	began := time.Now()
	for time.Since(began) < 2*time.Second {
		time.Sleep(10 * time.Millisecond)
	}
	// Both at each of their looks, and once more for what was on the way.
	if n, most := written(server), 2*int(time.Since(began)/lookEvery)+4; n < 2 || n > most {
		t.Errorf("%d written, want at most %d", n, most)
	}
}

// What is no book is said once, and nothing else suffers.
func TestBookThatIsNone(t *testing.T) {
	server := redistest.Start(t)
	server.Do("SET", "test:{test}", "garbage")
	var said atomic.Int64
	s := open(t, func(o *Options) {
		o.Log = slog.New(slog.NewTextHandler(writer(func(b []byte) {
			if strings.Contains(string(b), "book=test") {
				said.Add(1)
			}
		}), nil))
	}, server.Address)
	one := openCopy(s)
	defer one.Close()
	one.put("x", "1")
	eventually(t, "it is said", func() bool { return said.Load() == 1 })
	server.Do("DEL", "test:{test}")
	two := openCopy(open(t, nil, server.Address))
	defer two.Close()
	eventually(t, "it is told when it can be", func() bool { return two.has()["x"] == "1" })
	if said.Load() != 1 || !s.Up() {
		t.Errorf("said %d times, up %v", said.Load(), s.Up())
	}
}
