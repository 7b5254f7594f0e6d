"""From a source string, by way of files in whatever form, to networks.

Getting files:       source (what a string means), hub, civitai, download, remembered (answers kept on disk)
Opening them safely: file (one file, tensor by tensor), pickles (what a pickle may ask for), settings (strangers' JSON)
What they are:       detect (what is it?), contents, names (whose tensors are these?), layout (folders),
                     parts (one object for all forms), open (all of this in order), hashes
Loading them:        architecture (from shapes to a config), load_unet, load_text, load_vae, mixture (SegMoE's)
An expert's LoRAs:   lora_names, lora, open_lora
And back:            save (diffusers' layout), describing (`emoe inspect`)
"""
