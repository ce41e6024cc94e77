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

// Keeper puts what a source has into force: all of it or nothing, but that a team whose files are broken, and an object
// from outside that is, has what was good last, or, without any, is left out. What is in force is kept in a folder, for a
// start when the source can not be asked.
type Keeper struct {
	o KeeperOptions

	mu     sync.Mutex
	good   config.Input // what teams and objects have in force
	loaded bool         // good has what the folder has
	said   Broken       // what the log was told of objects
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

// Broken is who did not get what they say, and why.
type Broken struct {
	Teams, Objects map[string]error
}

// NewKeeper returns a Keeper that knows nothing yet.
func NewKeeper(o KeeperOptions) *Keeper {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{o: o}
}

// Apply loads the input and gives it to apply, once or, without what teams and objects have broken, again. unread is what of
// it could not be read, nil for nothing.
func (k *Keeper) Apply(in config.Input, unread error, apply func(*config.Config) error) (broken Broken, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seed(in)
	now := config.Input{Files: in.Files, Teams: maps.Clone(in.Teams), Objects: maps.Clone(in.Objects)}
	broken = Broken{make(map[string]error), make(map[string]error)}
	kept := make(map[owner]bool) // who has what was good last
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
		wrong := ownersOf(now, err)
		if wrong == nil {
			return broken, err
		}
		for who, errs := range wrong {
			if already := broken.of(who); already[who.name] == nil {
				already[who.name] = shown(errs)
			}
			if kept[who] || !who.restore(&now, &k.good) {
				who.remove(&now)
			}
			kept[who] = true
		}
	}
}

// maxShown is how many mistakes of one team or object are told. Others may write them, and they go into the log and the API.
const maxShown = 20

func shown(errs config.Errors) error {
	if more := len(errs) - maxShown; more > 0 {
		last := *errs[maxShown-1]
		last.Message += fmt.Sprintf(" (and %d more mistakes)", more)
		errs = append(errs[:maxShown-1:maxShown-1], &last)
	}
	return errs.Err()
}

// owner is whose a mistake is: a team, or the source of an object.
type owner struct {
	name   string
	object bool
}

func (b *Broken) of(who owner) map[string]error {
	if who.object {
		return b.Objects
	}
	return b.Teams
}

// restore gives an owner what it had, unless that is just what is broken, or nothing.
func (who owner) restore(now, good *config.Input) bool {
	if who.object {
		was, ok := good.Objects[who.name]
		if ok = ok && !was.Same(now.Objects[who.name]); ok {
			now.Objects[who.name] = was
		}
		return ok
	}
	was, ok := good.Teams[who.name]
	if ok {
		now.Teams[who.name] = was
	}
	return ok
}

func (who owner) remove(now *config.Input) {
	if who.object {
		delete(now.Objects, who.name)
		return
	}
	delete(now.Teams, who.name)
}

// ownersOf parts errors by whose they are; nil where one is nobody's but the gateway's.
func ownersOf(in config.Input, err error) map[owner]config.Errors {
	var all config.Errors
	if !errors.As(err, &all) {
		return nil
	}
	wrong := make(map[owner]config.Errors)
	for _, e := range all {
		who := owner{name: e.Pos.File, object: true}
		if _, ok := in.Objects[e.Pos.File]; !ok {
			if who = (owner{name: in.TeamOf(e.Pos.File)}); who.name == "" {
				return nil
			}
		}
		wrong[who] = append(wrong[who], e)
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
func (k *Keeper) keep(in config.Input, stateDir string, broken Broken) {
	for _, team := range slices.Sorted(maps.Keys(broken.Teams)) {
		_, has := in.Teams[team]
		k.o.Log.Error("the configuration of a team is broken; "+instead(has)+", and all others are in force", "team", team, "error", broken.Teams[team].Error())
	}
	for _, name := range slices.Sorted(maps.Keys(broken.Objects)) {
		// Sources tell of their objects often; the log hears of each mistake once.
		if said := k.said.Objects[name]; said == nil || said.Error() != broken.Objects[name].Error() {
			_, has := in.Objects[name]
			k.o.Log.Error("an object from outside is broken; "+instead(has)+", and all others are in force", "object", name, "error", broken.Objects[name].Error())
		}
	}
	k.said = broken
	k.good = config.Input{Teams: in.Teams, Objects: in.Objects}
	dir := k.o.Dir
	if dir == "" {
		dir = stateDir
	}
	if dir == "" || !k.o.Whole && len(in.Teams) == 0 && len(in.Objects) == 0 {
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

func instead(has bool) string {
	if has {
		return "it has what was good last"
	}
	return "it has nothing that was good before, and is left out"
}

// Objects are those in force: before the first Apply those of the process before, for a start when their sources can not be
// asked.
func (k *Keeper) Objects(in config.Input) map[string]config.Object {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seed(in)
	return maps.Clone(k.good.Objects)
}

// seed takes what teams and objects had when the process before ended.
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
	if was, err := k.read(dir); err == nil {
		k.good = config.Input{Teams: was.Teams, Objects: was.Objects}
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
