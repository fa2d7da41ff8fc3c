"""The pocket voice: a small speech synthesiser made from nothing but rule-based speech.

Stages, each run as ``python -m pretrain.voice.<stage>``: ``corpus`` renders speech with espeak-ng,
``recogniser``, ``xvector`` and ``voiceprint`` learn to hear it, ``tts`` and ``vocoder`` to make it.
"""
