package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

// A process that was paused does not take the store for gone because of the time in which it could not hear it: requests that waited
// for it, and that others have answered meanwhile, would be carried out twice.
func TestStoodStill(t *testing.T) {
	f := func(name string, stood time.Duration, answers bool, first, then bool) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := Open(Options{Addresses: []string{"127.0.0.1:1"}, Timeout: 50 * time.Millisecond, Now: func() int64 { return 0 }, Wall: time.Now})
				defer s.stop()
				time.Sleep(time.Minute)
				s.up.Store(true)
				s.watch(time.Now().Add(-stood))
				time.Sleep(silence * s.o.Timeout)
				synctest.Wait()
				if s.Up() != first {
					t.Errorf("the store counts as there: %v when its time is over, want %v", s.Up(), first)
				}
				select {
				case <-s.wake: // is asked at once, also where it counts as gone
				default:
					t.Error("the store is not asked at once")
				}
				if answers {
					s.observe("beat", time.Now(), nil)
				}
				time.Sleep(silence * s.o.Timeout)
				synctest.Wait()
				if s.Up() != then {
					t.Errorf("the store counts as there: %v when its time is over once more, want %v", s.Up(), then)
				}
			})
		})
	}
	f("paused", 3*time.Second, true, true, true)
	f("paused, and gone meanwhile", 3*time.Second, false, true, false)
	f("gone", 0, false, false, false)
}

// One answer that is late does not end in a store that counts as gone, also where nobody else asks for anything.
func TestOneLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Open(Options{Addresses: []string{"127.0.0.1:1"}, Timeout: 50 * time.Millisecond, Now: func() int64 { return 0 }, Wall: time.Now})
		defer s.stop()
		time.Sleep(time.Minute)
		s.up.Store(true)
		sent := time.Now()
		ended := s.watch(sent)
		time.Sleep(s.o.Timeout + time.Millisecond)
		s.observe("beat", sent, nil)
		ended()
		select {
		case <-s.wake: // and the beat is answered
			s.observe("beat", time.Now(), nil)
		default:
			t.Error("the store is not asked again")
		}
		time.Sleep(silence * s.o.Timeout)
		synctest.Wait()
		if !s.Up() {
			t.Error("the store counts as gone")
		}
	})
}
