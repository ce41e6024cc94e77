package wsconn

import (
	"sluice/config"
	"sluice/gateway/wswire"
)

// Rate is how many messages a client may send over one WebSocket. More close it with 1008.
type Rate struct {
	// Off: as many as it likes.
	Off bool `yaml:"-"`
	// Messages in the time `per`, on average. Pings and pongs count.
	Messages int `yaml:"messages" required:"true" min:"1"`
	// Per is that time.
	Per config.Duration `yaml:"per" default:"1s" min:"1ms"`
	// Burst is how many may come at once. Default: messages.
	Burst int `yaml:"burst" min:"1"`
}

// Complete fills in the burst.
func (r *Rate) Complete() {
	if r.Burst == 0 {
		r.Burst = r.Messages
	}
}

// Pace is the rate as connections keep it.
func (r *Rate) Pace() wswire.Pace {
	if r.Off || r.Messages == 0 {
		return wswire.Pace{}
	}
	return wswire.Pace{Interval: max(int64(r.Per)/int64(r.Messages), 1), Burst: int64(r.Burst)}
}
