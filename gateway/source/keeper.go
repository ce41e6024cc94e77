package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"sluice/config"
)

// Keeper puts what a source has into force: all of it or nothing, but that a team whose files are broken has its last
// good ones, or, without any, is left out. What is in force is kept in a folder, for a start when the source can not be
// asked.
type Keeper struct {
	o KeeperOptions

	mu     sync.Mutex
	good   map[string][]config.File // by team
	loaded bool                     // good has what the folder has
}

// KeeperOptions of a Keeper.
type KeeperOptions struct {
	Options config.Options
	// Source names where the input comes from: what was kept of another one is not taken.
	Source string
	// Dir is the folder; default: state.dir of the configuration, which is known when there is one.
	Dir string
	// Whole keeps the whole configuration, also without teams.
	Whole bool
	// Log hears of what is broken; default: nobody.
	Log *slog.Logger
}

// NewKeeper returns a Keeper that knows nothing yet.
func NewKeeper(o KeeperOptions) *Keeper {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{o: o, good: make(map[string][]config.File)}
}

// Apply loads the input and gives it to apply, once or, without what teams have broken, again. unread is what of it could
// not be read, nil for nothing. broken are the teams that did not get what their files say, and why.
func (k *Keeper) Apply(in config.Input, unread error, apply func(*config.Config) error) (broken map[string]error, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seed(in)
	now := config.Input{Files: in.Files, Teams: maps.Clone(in.Teams)}
	broken = make(map[string]error)
	kept := make(map[string]bool) // teams that have their last good files
	for {
		c, err := (*config.Config)(nil), unread
		if unread = nil; err == nil {
			c, err = now.Load(k.o.Options)
		}
		if err == nil {
			err = apply(c)
		}
		if err == nil {
			k.keep(now, c.State.Dir, broken)
			return broken, nil
		}
		wrong := teamsOf(now, err)
		if wrong == nil {
			return broken, err
		}
		for team, errs := range wrong {
			if _, ok := broken[team]; !ok {
				broken[team] = errs.Err()
			}
			good, ok := k.good[team]
			if !ok || kept[team] {
				delete(now.Teams, team)
				continue
			}
			now.Teams[team], kept[team] = good, true
		}
	}
}

// teamsOf parts errors by team; nil where one is nobody's but the gateway's.
func teamsOf(in config.Input, err error) map[string]config.Errors {
	var all config.Errors
	if !errors.As(err, &all) {
		return nil
	}
	wrong := make(map[string]config.Errors)
	for _, e := range all {
		team := in.TeamOf(e.Pos.File)
		if team == "" {
			return nil
		}
		wrong[team] = append(wrong[team], e)
	}
	return wrong
}

// kept is what stands in the folder.
type kept struct {
	Source string       `json:"source"`
	Input  config.Input `json:"input"`
}

const keptFile = "configuration.json"

// keep takes note of what is in force.
func (k *Keeper) keep(in config.Input, stateDir string, broken map[string]error) {
	for _, team := range slices.Sorted(maps.Keys(broken)) {
		what := "it has what was good last"
		if _, ok := in.Teams[team]; !ok {
			what = "it has nothing that was good before, and is left out"
		}
		k.o.Log.Error("the configuration of a team is broken; "+what+", and all others are in force", "team", team, "error", broken[team].Error())
	}
	k.good = in.Teams
	if k.good == nil {
		k.good = make(map[string][]config.File)
	}
	dir := k.o.Dir
	if dir == "" {
		dir = stateDir
	}
	if dir == "" || !k.o.Whole && len(in.Teams) == 0 {
		return
	}
	text, err := json.Marshal(kept{k.o.Source, in})
	if err == nil {
		if err = os.MkdirAll(dir, 0o700); err == nil {
			err = WriteBack(filepath.Join(dir, keptFile), text)
		}
	}
	if err != nil {
		k.o.Log.Error("the configuration in force can not be kept for the next start", "error", err.Error())
	}
}

// seed takes what teams had when the process before ended.
func (k *Keeper) seed(in config.Input) {
	if k.loaded {
		return
	}
	k.loaded = true
	dir := k.o.Dir
	if dir == "" {
		own := config.Input{Files: in.Files}
		c, err := own.Load(k.o.Options)
		if err != nil || c.State.Dir == "" {
			return
		}
		dir = c.State.Dir
	}
	if was, err := k.read(dir); err == nil && was.Teams != nil {
		k.good = was.Teams
	}
}

// Kept returns the configuration that was in force last.
func (k *Keeper) Kept() (config.Input, error) {
	if k.o.Dir == "" {
		return config.Input{}, errors.New("no folder is named that would hold the last good configuration; name one with --state DIR")
	}
	return k.read(k.o.Dir)
}

func (k *Keeper) read(dir string) (config.Input, error) {
	name := filepath.Join(dir, keptFile)
	text, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return config.Input{}, fmt.Errorf("%s does not exist: no configuration was in force yet", name)
	}
	var was kept
	if err == nil {
		err = json.Unmarshal(text, &was)
	}
	switch {
	case err != nil:
		return config.Input{}, fmt.Errorf("the last good configuration can not be read: %w", err)
	case was.Source != k.o.Source:
		return config.Input{}, fmt.Errorf("%s holds the configuration of %s", name, was.Source)
	}
	return was.Input, nil
}
