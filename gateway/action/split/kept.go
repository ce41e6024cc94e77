package split

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"sluice/gateway/durable"
)

// kept is where a split was when the process ended, in a file of state.dir. It holds for the block that it was written
// under: one that has changed begins as it says.
type kept struct {
	Route   string    `json:"route"`
	Block   string    `json:"block"` // a digest
	Source  string    `json:"source"`
	Weights []int     `json:"weights"`
	Changed time.Time `json:"changed"`

	// Of a rollout.
	State  string `json:"state,omitempty"`
	Step   int    `json:"step,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// keepIn is the file of a route.
func keepIn(dir, route string) string {
	return filepath.Join(dir, "splits", digest(route)+".json")
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// restore takes the split to where it was. What can not be read never keeps the gateway from serving; it is logged, and the
// split begins as it is configured.
func (s *State) restore() {
	k, err := readKept(s.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err == nil && k.Block != s.block:
		return
	case err == nil:
		err = s.adopt(k)
	}
	if err != nil {
		s.log.Error("where a split was can not be read; it begins as it is configured", "route", s.route, "file", s.file, "error", err.Error())
	}
}

func readKept(file string) (*kept, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	k := &kept{}
	return k, json.Unmarshal(b, k)
}

func (s *State) adopt(k *kept) error {
	total := 0
	for _, w := range k.Weights {
		if w < 0 {
			return fmt.Errorf("a weight is %d", w)
		}
		total += w
	}
	if len(k.Weights) != len(s.members) || total == 0 {
		return fmt.Errorf("its weights are %v", k.Weights)
	}
	if r := s.rollout; r != nil {
		state := slices.Index(stateNames[:], k.State)
		if state < 0 || k.Step < 0 || k.Step >= len(r.Steps) {
			return fmt.Errorf("it is %q in step %d", k.State, k.Step)
		}
		r.state, r.step, r.reason, r.changed, r.restored = rolloutState(state), k.Step, k.Reason, k.Changed, true
	}
	s.source, s.changed = k.Source, k.Changed
	s.table.Store(newTable(k.Weights))
	return nil
}

// keep writes where the split is. Requests do not wait for it: they read the table.
func (s *State) keep() {
	if s.file == "" {
		return
	}
	k := &kept{Route: s.route, Block: s.block, Source: s.source, Weights: s.table.Load().weights, Changed: s.changed}
	if r := s.rollout; r != nil {
		k.State, k.Step, k.Reason = r.state.String(), r.step, r.reason
	}
	b, err := json.Marshal(k)
	if err == nil {
		err = durable.Replace(s.file, append(b, '\n'))
	}
	if err != nil {
		s.log.Error("cannot write where a split is; a restart would begin from what was written last", "route", s.route, "file", s.file, "error", err.Error())
	}
}
