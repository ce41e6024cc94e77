package discovery

import (
	"strings"

	"sluice/config"
)

// ReadList reads endpoints as they stand under `endpoints`, in YAML or JSON, with host:port beside URLs; also below a key
// `endpoints`.
func ReadList(text []byte) ([]Endpoint, error) {
	block, err := config.ParseBlock("endpoints", string(text))
	if err != nil {
		return nil, err
	}
	var listed []config.Endpoint
	errs := block.Decode(&listed)
	if len(errs) > 0 {
		var below struct {
			Endpoints []config.Endpoint `yaml:"endpoints" required:"true"`
		}
		if block.Decode(&below) != nil {
			return nil, errs.Err()
		}
		listed = below.Endpoints
	}
	set := make([]Endpoint, len(listed))
	for i, e := range listed {
		set[i] = Endpoint{Address: strings.TrimSpace(e.URL), Weight: e.Weight, Zone: e.Zone}
	}
	return set, nil
}
