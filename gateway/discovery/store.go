package discovery

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"time"

	"sluice/gateway/durable"
)

// stored is the last good set of a service as it is kept for the next process.
type stored struct {
	Service   string     `json:"service"`
	Identity  string     `json:"identity"`
	Updated   time.Time  `json:"updated"`
	Endpoints []Endpoint `json:"endpoints"`
}

// load takes what an earlier process with the same settings has kept. It only serves until the source answers, so what
// can not be read is no reason not to start.
func (w *Watcher) load() {
	text, err := os.ReadFile(w.s.Store)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	var kept stored
	if err == nil {
		err = json.Unmarshal(text, &kept)
	}
	if err != nil {
		w.log(slog.LevelError, "discovery: the endpoints that were kept in state.dir can not be read", "file", w.s.Store, "error", err.Error())
		return
	}
	if kept.Identity != w.s.Identity || len(kept.Endpoints) == 0 {
		return
	}
	w.good, _ = tidy(kept.Endpoints)
	w.known, w.status.Stored, w.status.Updated = true, true, &kept.Updated
}

// save keeps the set in force, at once or not at all.
func (w *Watcher) save() {
	text, err := json.Marshal(stored{w.s.Service, w.s.Identity, time.Now(), w.good})
	if err == nil {
		err = durable.Replace(w.s.Store, text)
	}
	if err != nil {
		w.log(slog.LevelError, "discovery: the endpoints can not be kept in state.dir", "file", w.s.Store, "error", err.Error())
	}
}
