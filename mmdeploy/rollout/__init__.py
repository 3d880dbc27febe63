"""Puts a release into a Triton that serves another one, under load, and takes it back where it does not hold.

**What could mix.** A component's name is no good for two releases: while it is loaded again, requests that are under
way meet the old encoder and the new head, without an error (measured: 23 % of answers with ``model_version: -1``, 3 %
where the whole folder is flipped). So each part of a release is loaded under a name that is made of its content,
``digits.fusion.3f0c…`` (`mmdeploy.rollout.generation`), beside the parts of the release that serves. Equal parts have
equal names: they are loaded once, and what the response cache holds of them stays true. Only the ensemble keeps its
name. Its steps name the parts, so an answer is made by one release from end to end, whatever is loaded or unloaded
meanwhile: a request holds the models that it started with.

**The order** (`mmdeploy.rollout.promote`). The release is held against its manifest and checked by lint. Its parts are
written and loaded. A *candidate*, the same ensemble under another name, is asked the release's golden requests
(`mmdeploy.triton.golden`). Then the ensemble's ``config.pbtxt`` is replaced by one rename and the ensemble is loaded
again, which swaps it without a gap; it is asked the golden requests, too. Requests that started before are waited for,
and only then are the old parts unloaded. Whatever goes wrong before the old parts go, the old configuration is put back
and what was loaded is unloaded. A promotion that is killed leaves either the old or the new ensemble, whole, and models
that nobody asks; the next promotion removes those.

**Where the server finds the files.** Triton's repositories are fixed when it starts, so new models must appear in one
of them (`mmdeploy.rollout.server_folder`). ``mmdeploy serve`` serves a folder of its own below its work folder: links
to the release's models, and room for others; ``promote`` finds it by the server's address. For a Triton elsewhere, such
as one in a container, ``--server-repository`` names its repository as this machine sees it: a shared volume that this
machine can write. (Triton can also be sent files in the request that loads a model. That is not used: it would have to
hold the file in memory three times over, and what was loaded so is gone when the server starts again.) After a restart
the server loads what is in that folder: the release that was promoted last.

**The response cache** knows an answer by the model's name, its version and the inputs. Parts have names of their own;
an ensemble that is cached as a whole gets a version that is made of its content. Neither ever answers for another
release.
"""
